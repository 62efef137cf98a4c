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
use tokio::time::{Sleep, sleep};

/// Connections at once: some monitors and some people. More wait to be accepted.
const CONNECTIONS: usize = 64;
/// How long a connection may last, request and answer; Prometheus gives up after 10 s by default.
const LIFE: Duration = Duration::from_secs(10);
/// Bytes of a client after which no more are read: a line and its headers. Web servers take 8 to 16 KiB.
const MOST_SENT: usize = 16 * 1024;

/// A listener whose connections are bounded.
pub(super) struct Limited {
    listener: TcpListener,
    room: Arc<Semaphore>,
    life: Duration,
}

impl Limited {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, room: Arc::new(Semaphore::new(CONNECTIONS)), life: LIFE }
    }
}

impl Listener for Limited {
    type Io = Bounded;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Bounded, SocketAddr) {
        let permit = Arc::clone(&self.room).acquire_owned().await.ok();
        // Tries again by itself when there is no file descriptor left.
        let (stream, addr) = Listener::accept(&mut self.listener).await;
        let life = Box::pin(sleep(self.life));
        (Bounded { stream, life, left: MOST_SENT, _permit: permit }, addr)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends by an error when its time is over or its client sends too much.
pub(super) struct Bounded {
    stream: TcpStream,
    life: Pin<Box<Sleep>>,
    left: usize,
    /// Its place; none only if the listener is gone.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Bounded {
    fn check_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.life.as_mut().poll(cx) {
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
        self.check_time(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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
    use tokio::time::Instant;

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
        let more = tokio::time::timeout(Duration::from_millis(50), pair(&mut listener));
        assert!(more.await.is_err(), "one more is accepted");
        held.pop();
        pair(&mut listener).await;
    }

    #[tokio::test]
    async fn a_slow_client_is_closed() {
        let mut listener = listener().await;
        listener.life = Duration::from_millis(100);
        let began = Instant::now();
        let (mut client, mut served) = pair(&mut listener).await;
        client.write_all(b"GET").await.unwrap();
        let mut buf = [0; 3];
        served.read_exact(&mut buf).await.unwrap();
        let end = served.read(&mut buf).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= listener.life);
    }
}
