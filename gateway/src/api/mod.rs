//! The API: HTTP and JSON on a unix socket, and the metrics on an address of their own.
//!
//! What can be asked is in `docs/api.md`. It shows the state and asks for a reload; it changes
//! nothing by itself. [`Listeners::bind`] comes before devices are made, so that a second daemon is
//! refused while nothing has happened yet; [`Listeners::serve`] when packets flow. The one hard
//! constraint: nothing here waits on a worker's thread, and a worker never waits for anything here.

mod answer;
mod explain;
mod groups;
mod lists;
pub mod model;
mod mtus;
mod query;
mod reload;
mod router;
mod server;
mod socket;
mod sums;
mod tables;
mod trace;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::pin::pin;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use config::Gateway;
use futures_util::future;
use tokio::sync::oneshot;

pub(crate) use self::lists::{Behind, behind_ports, driver_of};
use self::router::Shared;
use self::socket::SocketFile;
pub(crate) use self::sums::{of_network, of_port};
use crate::control::Control;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Another daemon has the socket.
    #[error(
        "a gateway is running already: it answers at {}; stop it, or give this one another `api`",
        path.display()
    )]
    Running {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is at the socket's path.
    #[error("{} is no socket: remove it, or choose another `api`", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// A step of setting the socket up.
    #[error("cannot {action} {}: {source}; see `api` in `[gateway]`", path.display())]
    Socket {
        /// What was done.
        action: &'static str,
        /// To this path.
        path: PathBuf,
        /// Why it went wrong.
        source: std::io::Error,
    },
    /// The group that may use the socket is not there.
    #[error("there is no group {name}: make it, or choose another `api_group`")]
    Group {
        /// Its name.
        name: String,
    },
    /// The address of the metrics cannot be had.
    #[error("cannot serve metrics at {address}: {source}; see `metrics` in `[gateway]`")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The thread could not be started.
    #[error("cannot start the thread of the api: {0}")]
    Thread(std::io::Error),
}

/// Where the API is reached. Who connects waits until it is served.
#[derive(Debug)]
pub struct Listeners {
    unix: UnixListener,
    metrics: Option<TcpListener>,
    file: SocketFile,
}

/// The API being served; ends, and its socket goes, when dropped.
#[derive(Debug)]
pub struct Serving {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    // Dropped after the thread has ended.
    _file: SocketFile,
}

impl Listeners {
    /// Takes the socket and the address that the config names.
    ///
    /// # Errors
    /// Another daemon has them, or they cannot be had.
    pub fn bind(config: &Gateway) -> Result<Listeners, ApiError> {
        let (unix, file) = socket::listen(&config.api, config.api_group.as_deref())?;
        let metrics = config.metrics.map(socket::listen_metrics).transpose()?;
        Ok(Listeners { unix, metrics, file })
    }

    /// Serves from now on, on a thread of its own.
    ///
    /// # Errors
    /// The thread or its runtime cannot be started.
    pub fn serve(
        self,
        control: Control,
        state: crate::control::StateView,
    ) -> Result<Serving, ApiError> {
        let Listeners { unix, metrics, file } = self;
        unix.set_nonblocking(true).map_err(ApiError::Thread)?;
        if let Some(metrics) = &metrics {
            metrics.set_nonblocking(true).map_err(ApiError::Thread)?;
        }
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ApiError::Thread)?;
        let work = move || {
            crate::priority::lower();
            let outcome = runtime.block_on(run(unix, metrics, Shared::new(control, state), ended));
            if let Err(error) = outcome {
                tracing::error!(%error, "the api is not served");
            }
            // A thread that waits for the supervisor is not waited for.
            runtime.shutdown_timeout(Duration::from_millis(100));
        };
        let thread = thread::Builder::new().name("api".into()).spawn(work);
        let thread = Some(thread.map_err(ApiError::Thread)?);
        Ok(Serving { end: Some(end), thread, _file: file })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It reports its own panics.
            let _ = thread.join();
        }
    }
}

async fn run(
    unix: UnixListener,
    metrics: Option<TcpListener>,
    shared: std::sync::Arc<Shared>,
    ended: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let unix = tokio::net::UnixListener::from_std(unix)?;
    let metrics = metrics.map(tokio::net::TcpListener::from_std).transpose()?;
    let scraped = async {
        let Some(metrics) = metrics else { return std::future::pending().await };
        let accept = async || metrics.accept().await.map(|(stream, _)| stream);
        let router = router::metrics_only(shared.clone());
        server::serve(accept, router, server::SCRAPERS_MAX).await
    };
    let accept = async || unix.accept().await.map(|(stream, _)| stream);
    let asked = server::serve(accept, router::api(shared.clone()), server::CONNECTIONS_MAX);
    let served = pin!(future::join(asked, scraped));
    // The sender is dropped to end it.
    future::select(ended, served).await;
    Ok(())
}
