//! Asks a running gateway over its socket: HTTP and JSON, one connection per question.
//!
//! Used by `portolan show`, `explain`, `trace` and `reload`. The one hard constraint: whoever
//! cannot be answered is told what to do: start the gateway, become root, or name the right socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::Config;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use crate::api::model::Failure;

/// How long an answer may take; a little longer than the daemon gives itself for a reload.
const ANSWER_WITHIN: Duration = Duration::from_secs(310);

/// Items asked for at once: as many as there may be.
const PAGE: usize = 10_000;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error(
        "no gateway answers at {}: start one with `portolan run -c FILE`, or name the socket of a \
         running one with `--socket` or its config with `-c`",
        path.display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is for others.
    #[error("{} is not for you: be root, or a member of the group `api_group`", path.display())]
    NotAllowed {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke, or what came is not what a gateway says.
    #[error("no answer from {}: {reason}; look at the daemon's log", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The gateway said no.
    #[error("{}", spoken(failure))]
    Refused {
        /// Its words.
        failure: Failure,
    },
    /// The config that should name the socket is wrong.
    #[error(
        "{} is not valid, so it names no socket: see `portolan check`, or use `--socket`",
        path.display()
    )]
    Config {
        /// The config file.
        path: PathBuf,
    },
    /// What came cannot be handed on: the output takes no more, or it is of another version.
    #[error("cannot print: {0}")]
    Output(io::Error),
    /// This process is out of something.
    #[error("cannot ask: {0}")]
    Runtime(io::Error),
}

/// Which running gateway is asked.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Target {
    /// The gateway's socket
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The gateway's config file, which names its socket
    #[arg(short, long, value_name = "FILE", conflicts_with = "socket")]
    pub config: Option<PathBuf>,
}

impl Target {
    /// A client of it. Connects when it asks.
    ///
    /// # Errors
    /// The config is not valid, or the process is out of descriptors.
    pub fn client(&self) -> Result<Client, ClientError> {
        Client::new(socket(self.socket.clone(), self.config.as_deref())?)
    }
}

/// The socket that is named outright, or by a config, or by nobody.
///
/// # Errors
/// The config is not valid.
pub fn socket(socket: Option<PathBuf>, config: Option<&Path>) -> Result<PathBuf, ClientError> {
    if let Some(socket) = socket {
        return Ok(socket);
    }
    let config = match config {
        Some(path) => Config::load(path).map_err(|_| path),
        None => Config::parse("defaults", "").map_err(|_| Path::new("defaults")),
    };
    match config {
        Ok(config) => Ok(config.gateway.api),
        Err(path) => Err(ClientError::Config { path: path.to_owned() }),
    }
}

/// A running gateway, as seen from outside.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// A client of the gateway whose socket this is. Connects when it asks.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn new(path: PathBuf) -> Result<Client, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Client { path, runtime: runtime.map_err(ClientError::Runtime)? })
    }

    /// What is at a path.
    ///
    /// # Errors
    /// Nobody answers, or the answer is no.
    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.ask(Method::GET, path, String::new())
    }

    /// Sends a body.
    ///
    /// # Errors
    /// Nobody answers, or the answer is no.
    pub fn post(&self, path: &str, body: String) -> Result<Value, ClientError> {
        self.ask(Method::POST, path, body)
    }

    /// A whole list, piece by piece, or its first items.
    ///
    /// # Errors
    /// Nobody answers, or the answer is no.
    pub fn list(
        &self,
        name: &str,
        filters: &[(&str, &str)],
        count_max: Option<usize>,
    ) -> Result<Vec<Value>, ClientError> {
        let (mut items, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let left = count_max.map_or(PAGE, |max| max - items.len());
            let limit = left.min(PAGE).to_string();
            let cursor_pair = cursor.as_deref().map(|cursor| ("cursor", cursor));
            let pairs = [("limit", &*limit)].into_iter().chain(filters.iter().copied());
            let mut page = self.get(&question(name, pairs.chain(cursor_pair)))?;
            match page["items"].take() {
                Value::Array(more) => items.extend(more),
                _ => return Err(self.broken("a list without items")),
            }
            cursor = page["next"].as_str().map(str::to_owned);
            if cursor.is_none() || count_max.is_some_and(|max| items.len() >= max) {
                return Ok(items);
            }
        }
    }

    /// Reads an answer line by line, as it comes, to its end.
    ///
    /// # Errors
    /// Nobody answers, the answer is no, or `each` fails.
    pub fn lines(
        &self,
        path: &str,
        mut each: impl FnMut(&str) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        self.runtime.block_on(async {
            let answer = self.begin(Method::GET, path, String::new()).await?;
            let status = answer.status();
            let mut body = answer.into_body();
            if !status.is_success() {
                let bytes = body.collect().await.map_err(|error| self.broken(error))?.to_bytes();
                return match serde_json::from_slice(&bytes) {
                    Ok(failure) => Err(ClientError::Refused { failure }),
                    Err(_) => Err(self.broken(format!("it says {status}"))),
                };
            }
            let mut rest = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| self.broken(error))?;
                rest.extend(frame.into_data().unwrap_or_default());
                while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    let line = String::from_utf8_lossy(&line[..end]);
                    each(&line).map_err(ClientError::Output)?;
                }
            }
            Ok(())
        })
    }

    fn broken(&self, reason: impl ToString) -> ClientError {
        ClientError::Broken { path: self.path.clone(), reason: reason.to_string() }
    }

    fn ask(&self, method: Method, path: &str, body: String) -> Result<Value, ClientError> {
        let answer =
            async { tokio::time::timeout(ANSWER_WITHIN, self.converse(method, path, body)).await };
        let answer = self.runtime.block_on(answer);
        let (status, bytes) = answer.map_err(|_| self.broken("it takes too long"))??;
        let value: Result<Value, _> = serde_json::from_slice(&bytes);
        match value {
            Ok(value) if status.is_success() => Ok(value),
            Ok(value) => match serde_json::from_value(value) {
                Ok(failure) => Err(ClientError::Refused { failure }),
                Err(_) => Err(self.broken(format!("it says {status}"))),
            },
            Err(_) => Err(self.broken(format!("it says {status}, and not in JSON"))),
        }
    }

    async fn converse(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let answer = self.begin(method, path, body).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| self.broken(error))?;
        Ok((status, body.to_bytes()))
    }

    /// Asks; the head of the answer is there, its body perhaps not yet.
    async fn begin(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream =
            UnixStream::connect(&self.path).await.map_err(|error| self.unreached(error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(error))?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "portolan");
        let request = request.body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| self.broken(error))?;
        sender.send_request(request).await.map_err(|error| self.broken(error))
    }

    fn unreached(&self, error: io::Error) -> ClientError {
        let path = self.path.clone();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { path }
            }
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed { path },
            _ => self.broken(error),
        }
    }
}

/// What is wrong, and what to do about it.
fn spoken(failure: &Failure) -> String {
    match &failure.hint {
        Some(hint) => format!("{}: {hint}", failure.error),
        None => failure.error.clone(),
    }
}

/// The path of a question to the API: what it is about, and its keys with their values.
pub(crate) fn question<'q>(
    name: &str,
    pairs: impl IntoIterator<Item = (&'q str, &'q str)>,
) -> String {
    let mut path = format!("/v1/{name}");
    for (index, (key, value)) in pairs.into_iter().enumerate() {
        let sign = if index == 0 { "?" } else { "&" };
        path.extend([sign, key, "=", &escape(value)]);
    }
    path
}

/// A value as it stands in a path: all but letters, digits and a few signs as `%XX`.
fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b':' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_in_a_path_cannot_become_another_key() {
        assert_eq!(escape("web&limit=1 ä"), "web%26limit%3D1%20%C3%A4");
        assert_eq!(escape("fd00:1::10"), "fd00:1::10");
    }

    #[test]
    fn a_socket_is_named_outright_or_by_a_config_or_by_default() {
        assert_eq!(socket(Some("/x".into()), None).unwrap(), Path::new("/x"));
        assert_eq!(socket(None, None).unwrap(), Path::new("/run/portolan/portolan.sock"));
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("gateway.toml");
        std::fs::write(&file, "[gateway]\napi = \"/tmp/own.sock\"\n").unwrap();
        assert_eq!(socket(None, Some(&file)).unwrap(), Path::new("/tmp/own.sock"));
        std::fs::write(&file, "[gateway]\napi = 7\n").unwrap();
        assert!(matches!(socket(None, Some(&file)), Err(ClientError::Config { .. })));
    }

    #[test]
    fn nobody_at_the_socket_is_told_with_what_to_do() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("api.sock");
        let error = Client::new(path.clone()).unwrap().get("/v1/status").unwrap_err();
        assert!(error.to_string().contains("portolan run -c FILE"), "{error}");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let error = Client::new(path).unwrap().get("/v1/status").unwrap_err();
        assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
    }
}
