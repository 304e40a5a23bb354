//! Serves connections: a bounded number of them, each with a bounded patience.
//!
//! One thread with one async runtime, at low priority: the workers' CPUs are the packets'. The one
//! hard constraint: no client, slow, silent or legion, holds more than its connection; the others
//! are answered all the same.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::trace::Lasting;

/// Connections of the unix socket at one time; each may hold an answer of some megabytes.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// Connections of the metrics at one time; a handful of scrapers is usual.
pub(super) const SCRAPERS_MAX: usize = 16;

/// How long a client may take to say what it wants, and to say something at all.
pub(super) const HEADERS_WITHIN: Duration = Duration::from_secs(10);

/// Longest life of a connection, also of one whose client reads nothing. Longer than the longest
/// answer, a reload; a trace lasts as long as its client stays.
const CONNECTION_MAX: Duration = Duration::from_secs(360);

/// Bytes of a request's line and headers.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// How long to wait after an error of accepting: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long somebody who is too many may take to hear it.
const REFUSE_WITHIN: Duration = Duration::from_secs(1);

/// What those hear who are too many.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
content-type: application/json\r\ncontent-length: 80\r\nconnection: close\r\n\r\n\
{\"error\":\"too many connections\",\"hint\":\"close others, or try again in a while\"}\n";

/// Counts connections that are open.
#[derive(Debug, Default)]
struct Open(Arc<AtomicUsize>);

/// One open connection.
#[derive(Debug)]
struct Entered(Arc<AtomicUsize>);

impl Open {
    /// One more, if there may be.
    fn enter(&self, max: usize) -> Option<Entered> {
        let entered = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < max).then_some(count + 1)
        });
        entered.is_ok().then(|| Entered(self.0.clone()))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts connections for ever and serves each.
pub(super) async fn serve<S>(
    accept: impl AsyncFn() -> std::io::Result<S>,
    router: Router,
    max: usize,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (open, refused) = (Open::default(), Open::default());
    loop {
        let stream = match accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "api: no connection accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(entered) = open.enter(max) else {
            // Beyond that nobody is even told.
            if let Some(entered) = refused.enter(max) {
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(REFUSE_WITHIN, refuse(stream)).await;
                    drop(entered);
                });
            }
            continue;
        };
        let lasting = Lasting::default();
        let router = router.clone().layer(Extension(lasting.clone()));
        tokio::spawn(async move {
            let mut conversation = pin!(converse(stream, router));
            while tokio::time::timeout(CONNECTION_MAX, &mut conversation).await.is_err() {
                if !lasting.0.load(Ordering::Relaxed) {
                    break;
                }
            }
            drop(entered);
        });
    }
}

/// Says that there are too many, and hears the client out: what is closed with words unread is a
/// broken connection to the other side.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> std::io::Result<()> {
    stream.write_all(TOO_MANY).await?;
    stream.shutdown().await?;
    let mut words = [0; 1_024];
    while stream.read(&mut words).await? > 0 {}
    Ok(())
}

async fn converse<S>(stream: S, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        // A client that goes away or speaks no HTTP is its own affair.
        tracing::debug!(%error, "api: connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_those_who_are_too_many_is_as_long_as_it_says() {
        let text = std::str::from_utf8(TOO_MANY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        serde_json::from_str::<crate::api::model::Failure>(body).unwrap();
    }

    #[test]
    fn no_more_enter_than_may() {
        let open = Open::default();
        let first = open.enter(2).unwrap();
        let _second = open.enter(2).unwrap();
        assert!(open.enter(2).is_none());
        drop(first);
        assert!(open.enter(2).is_some());
    }
}
