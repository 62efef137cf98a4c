//! What one connection to the HTTP port may take, and how many there may be: it is open to anyone
//! who reaches it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Connections at once: some monitors and some people. More are closed.
const CONNECTIONS: usize = 64;
/// How long a client may take to send its request. It is known by the answer: pages are made at once.
const REQUEST: Duration = Duration::from_secs(2);
/// How long a connection may last, request and answer; Prometheus gives up after 10 s by default.
const LIFE: Duration = Duration::from_secs(10);
/// Bytes of a client after which no more are read: a line and its headers. Web servers take 8 to 16 KiB.
const MOST_SENT: usize = 16 * 1024;

/// A listener whose connections are bounded.
pub(super) struct Limited {
    listener: TcpListener,
    room: Arc<Semaphore>,
    request: Duration,
    life: Duration,
}

impl Limited {
    pub(super) fn new(listener: TcpListener) -> Self {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        Self { listener, room, request: REQUEST, life: LIFE }
    }
}

impl Listener for Limited {
    type Io = Bounded;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Bounded, SocketAddr) {
        loop {
            // Tries again by itself when there is no file descriptor left.
            let (stream, addr) = Listener::accept(&mut self.listener).await;
            let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
                tracing::debug!(%addr, "too many connections to the HTTP port");
                continue;
            };
            let time = Box::pin(sleep(self.request));
            let rest = Some(Instant::now() + self.life);
            let bounded = Bounded { stream, time, rest, left: MOST_SENT, _permit: permit };
            return (bounded, addr);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends by an error when its time is over or its client sends too much.
pub(super) struct Bounded {
    stream: TcpStream,
    /// Until when it may send its request, or take the answer.
    time: Pin<Box<Sleep>>,
    /// Until when it may take the answer, while there is none.
    rest: Option<Instant>,
    left: usize,
    /// Its place.
    _permit: OwnedSemaphorePermit,
}

impl Bounded {
    /// The request is there: the client has the rest of the time for the answer.
    fn answers(&mut self) {
        if let Some(rest) = self.rest.take() {
            self.time.as_mut().reset(rest);
        }
    }

    fn check_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.time.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_time(cx)?;
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other("a request of more than 16 KiB")));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let length = buf.filled().len() - before;
        self.left = self.left.saturating_sub(length);
        read
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answers();
        self.check_time(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.answers();
        self.check_time(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_time(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn pair(listener: &mut Limited) -> (TcpStream, Bounded) {
        let addr = listener.local_addr().unwrap();
        let client = TcpStream::connect(addr).await.unwrap();
        (client, listener.accept().await.0)
    }

    async fn listener() -> Limited {
        Limited::new(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    #[tokio::test]
    async fn too_many_bytes_and_too_many_connections() {
        let mut listener = listener().await;
        let (mut client, mut served) = pair(&mut listener).await;
        client.write_all(&vec![b'x'; MOST_SENT + 1]).await.unwrap();
        let mut text = Vec::new();
        assert!(served.read_to_end(&mut text).await.is_err());
        let mut held = vec![(client, served)];
        while held.len() < CONNECTIONS {
            held.push(pair(&mut listener).await);
        }
        // One more is turned away, and keeps nobody from coming in when there is room.
        let addr = listener.local_addr().unwrap();
        let mut more = TcpStream::connect(addr).await.unwrap();
        let mut buf = [0];
        tokio::select! {
            _ = listener.accept() => panic!("one more is accepted"),
            read = more.read(&mut buf) => assert_eq!(read.unwrap(), 0),
        }
        held.pop();
        pair(&mut listener).await;
    }

    #[tokio::test]
    async fn a_slow_client_is_closed() {
        let mut listener = listener().await;
        listener.request = Duration::from_millis(100);
        let began = Instant::now();
        let (mut client, mut served) = pair(&mut listener).await;
        client.write_all(b"GET").await.unwrap();
        let mut buf = [0; 3];
        served.read_exact(&mut buf).await.unwrap();
        let end = served.read(&mut buf).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= listener.request);
        assert!(began.elapsed() < listener.life);
    }

    #[tokio::test]
    async fn an_answer_has_more_time_than_a_request() {
        let mut listener = listener().await;
        listener.request = Duration::from_millis(100);
        listener.life = Duration::from_millis(300);
        let began = Instant::now();
        let (_client, mut served) = pair(&mut listener).await;
        served.write_all(b"x").await.unwrap();
        let end = served.read(&mut [0]).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= listener.life);
    }
}
