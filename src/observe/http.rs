//! The HTTP side: `/metrics`, `/healthz`, `/readyz`, `/status`.

use std::io;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::http_limits::Limited;
use super::metrics::Metrics;

#[derive(Clone)]
struct Shared {
    board: Arc<Board>,
    metrics: Arc<Metrics>,
}

/// Serves until `stop` is cancelled; then requests that run are finished. Each connection is for one
/// request, and its time and bytes are bounded.
pub async fn serve(
    listener: TcpListener,
    board: Arc<Board>,
    stop: CancellationToken,
) -> io::Result<()> {
    let shared = Shared { metrics: Arc::new(Metrics::new(board.clone())), board };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/status", get(async |State(shared): State<Shared>| Json(shared.board.read())))
        .layer(from_fn(one_request))
        .with_state(shared);
    axum::serve(Limited::new(listener), router).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// The connection is closed behind the answer: what is let live on has to be bounded in time.
async fn one_request(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn metrics(State(shared): State<Shared>) -> Response {
    match shared.metrics.scrape() {
        Ok(text) => ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.board.read().not_ready() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinSet;

    use super::*;
    use crate::observe::LinkState;
    use crate::observe::board::tests::board;

    async fn request(addr: &std::net::SocketAddr, path: &str) -> String {
        say(addr, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
    }

    async fn say(addr: &std::net::SocketAddr, text: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn every_page_answers_and_stop_ends_it() {
        let board = Arc::new(board());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, board.clone(), stop.clone()));
        let answer = request(&addr, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let answer = request(&addr, "/metrics").await;
        assert!(answer.contains("openmetrics-text") && answer.contains("redis_duplex_ready 1"));
        assert!(request(&addr, "/readyz").await.starts_with("HTTP/1.1 200"));
        board.links[0].0.set_state(LinkState::FullSync);
        let answer = request(&addr, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("link b is full_sync"));
        let answer = request(&addr, "/status").await;
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        let status: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(status["site"], "a");
        assert_eq!(status["links"][0]["state"], "full_sync");
        assert!(request(&addr, "/nosuch").await.starts_with("HTTP/1.1 404"));
        let post = "POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
        assert!(say(&addr, post).await.starts_with("HTTP/1.1 405"));
        stop.cancel();
        tasks.join_next().await.unwrap().unwrap().unwrap();
    }
}
