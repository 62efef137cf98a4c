//! Function libraries, which belong to no database.

use std::collections::BTreeMap;

use bytes::Bytes;
use redis_protocol::resp2::types::BytesFrame;

use super::side::{Side, bulk, text};
use super::{Difference, Mismatch};
use crate::redis::RedisError;

/// How many libraries are equal, and the differences of the others. None are compared if one of the
/// servers has no functions (before Redis 7.0).
pub(super) async fn compare(
    a: &mut Side,
    b: &mut Side,
) -> Result<(u64, Vec<Difference>), RedisError> {
    if !a.version().is_7_or_later() || !b.version().is_7_or_later() {
        return Ok((0, Vec::new()));
    }
    let (a, b) = tokio::try_join!(libraries(a), libraries(b))?;
    let found = |key: &Bytes, what| Difference { database: None, key: key.clone(), what };
    let mut result = Vec::new();
    let mut equal = 0;
    for (name, code) in &a {
        match b.get(name) {
            None => result.push(found(name, Mismatch::OnlyA)),
            Some(other) if other == code => equal += 1,
            Some(_) => result.push(found(name, Mismatch::Differs("the code differs".to_owned()))),
        }
    }
    for name in b.keys().filter(|name| !a.contains_key(*name)) {
        result.push(found(name, Mismatch::OnlyB));
    }
    Ok((equal, result))
}

async fn libraries(side: &mut Side) -> Result<BTreeMap<Bytes, Bytes>, RedisError> {
    let BytesFrame::Array(libraries) = side.call(&[b"FUNCTION", b"LIST", b"WITHCODE"]).await?
    else {
        return Err(side.unexpected("FUNCTION", "no array"));
    };
    Ok(libraries.into_iter().filter_map(library).collect())
}

fn library(frame: BytesFrame) -> Option<(Bytes, Bytes)> {
    let BytesFrame::Array(parts) = frame else { return None };
    let (mut name, mut code) = (None, None);
    let mut parts = parts.into_iter();
    while let (Some(field), Some(value)) = (parts.next(), parts.next()) {
        match text(&field).as_str() {
            "library_name" => name = bulk(value),
            "library_code" => code = bulk(value),
            _ => {}
        }
    }
    Some((name?, code?))
}
