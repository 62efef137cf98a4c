//! Until when a certificate is valid: the one field of it that is told to people.

/// DER's tags of what stands before that field, and of itself (X.690, RFC 5280 4.1).
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of a certificate's validity, as `2027-11-21 11:19 UTC`; none if it can't be found.
pub(super) fn valid_until(certificate: &[u8]) -> Option<String> {
    let (certificate, _) = of_tag(certificate, SEQUENCE)?;
    let (mut rest, _) = of_tag(certificate, SEQUENCE)?;
    if let Some((_, behind)) = of_tag(rest, VERSION) {
        rest = behind;
    }
    // The serial number, the algorithm, the issuer.
    for _ in 0..3 {
        (_, _, rest) = element(rest)?;
    }
    let (validity, _) = of_tag(rest, SEQUENCE)?;
    let (_, _, until) = element(validity)?;
    let (tag, time, _) = element(until)?;
    let time = std::str::from_utf8(time).ok().filter(|time| time.is_ascii())?;
    let (century, time) = match tag {
        GENERALIZED_TIME => (time.get(..2)?, time.get(2..)?),
        // Two digits stand for the years from 1950 to 2049.
        UTC_TIME if time.get(..2)? >= "50" => ("19", time),
        UTC_TIME => ("20", time),
        _ => return None,
    };
    let part = |from: usize| time.get(from..from + 2);
    let (year, month, day) = (part(0)?, part(2)?, part(4)?);
    Some(format!("{century}{year}-{month}-{day} {}:{} UTC", part(6)?, part(8)?))
}

/// The first element if it has this tag, and what is behind it.
fn of_tag(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = element(bytes)?;
    (tag == wanted).then_some((content, rest))
}

/// The tag and the content of the first element, and what is behind it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], mut rest) = bytes.split_first_chunk()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        // The length follows, in so many bytes; a certificate has less than 16 MiB.
        let (digits, behind) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > 3 {
            return None;
        }
        length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
        rest = behind;
    }
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn made(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(1999, 1, 1);
        params.not_after = date_time_ymd(year, 2, 3);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn both_forms_of_time_are_read() {
        assert_eq!(valid_until(&made(2031)).unwrap(), "2031-02-03 00:00 UTC");
        assert_eq!(valid_until(&made(1999)).unwrap(), "1999-02-03 00:00 UTC");
        assert_eq!(valid_until(&made(2051)).unwrap(), "2051-02-03 00:00 UTC");
    }

    #[test]
    fn what_is_cut_off_has_no_end() {
        let whole = made(2031);
        for length in 0..whole.len() {
            assert_eq!(valid_until(&whole[..length]), None);
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = valid_until(&bytes);
        }
    }
}
