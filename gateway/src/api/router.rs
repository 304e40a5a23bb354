//! Which path and verb leads to what.
//!
//! The one hard constraint: whatever is asked, the answer has the right status and says what would
//! have been right: the nearest path for a wrong one, `Allow` for a wrong verb, line and column for
//! wrong JSON, the limit for a body that is too long.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query as Pairs, Request, State};
use axum::http::header::{ACCEPT, ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::answer::{Refusal, respond};
use super::model::{ReloadRequest, Status, Version};
use super::query::Query;
use super::tables::Turnstile;
use super::{explain, groups, lists, mtus, reload, sums, tables, trace};
use crate::control::{Control, StateView};
use crate::metrics;

/// Longest body that a request may have. The only one with a body is a reload, which needs 20
/// bytes.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;

/// How much of a body that is too long is read and forgotten before the answer.
const HEARD_OUT_BYTES_MAX: usize = 1 << 20;

/// How long a client may take to send its body.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// How long the supervisor may take to show the state. While it reloads, it does not: then the
/// state from before is shown.
const STATE_WITHIN: Duration = Duration::from_millis(500);

/// How long an answer may take. Walking millions of flows takes piece after piece; who cannot wait
/// asks for less at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// How long a reload may take: a thousand new devices need some seconds.
const RELOAD_WITHIN: Duration = Duration::from_secs(300);

/// Lists, by the last part of their path.
const LISTS: [&str; 14] = [
    "networks",
    "endpoints",
    "ports",
    "fdb",
    "groups",
    "flows",
    "neighbours",
    "mtu",
    "routes",
    "publish",
    "policy",
    "uplinks",
    "workers",
    "drops",
];

/// All other paths.
const OTHERS: [&str; 6] =
    ["/v1/version", "/v1/status", "/v1/explain", "/v1/trace", "/v1/reload", "/metrics"];

/// What handlers work with.
pub(super) struct Shared {
    control: Control,
    turnstile: Turnstile,
    /// The state as it was seen last.
    last: Mutex<StateView>,
}

type Gate = State<Arc<Shared>>;

impl Shared {
    pub(super) fn new(control: Control, state: StateView) -> Arc<Shared> {
        Arc::new(Shared { control, turnstile: Turnstile::new(), last: Mutex::new(state) })
    }

    /// The state now, or as it was before the reload that is under way.
    pub(super) async fn state(&self) -> Result<StateView, Refusal> {
        let control = self.control.clone();
        let asked = tokio::task::spawn_blocking(move || control.state());
        let fresh = match tokio::time::timeout(STATE_WITHIN, asked).await {
            Ok(joined) => joined.expect("asking does not panic")?,
            Err(_) => return Ok(self.last()),
        };
        *self.last.lock().expect("nobody panics while holding it") = fresh.clone();
        Ok(fresh)
    }

    fn last(&self) -> StateView {
        self.last.lock().expect("nobody panics while holding it").clone()
    }
}

/// The whole API.
pub(super) fn api(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/version", get(version))
        .route("/v1/status", get(status))
        .route("/v1/explain", get(explained))
        .route("/v1/trace", get(traced))
        .route("/v1/reload", post(reload_config))
        .route("/v1/{list}", get(list))
        .route("/metrics", get(metrics_text))
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_verb)
        .layer(middleware::from_fn(bound))
        .with_state(shared)
}

/// What is served on the address of the metrics: they, and nothing else.
pub(super) fn metrics_only(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(metrics_text))
        .fallback(|| async {
            Refusal::new(StatusCode::NOT_FOUND, "only `/metrics` is here")
                .hint("the rest of the API is on the unix socket")
        })
        .method_not_allowed_fallback(wrong_verb)
        .layer(middleware::from_fn(bound))
        .with_state(shared)
}

/// Bounds what a request may bring and how long its answer may take.
async fn bound(request: Request, next: Next) -> Response {
    let announced = request.headers().get(CONTENT_LENGTH);
    let bytes = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if bytes.is_some_and(|bytes| bytes > BODY_BYTES_MAX as u64) {
        // Heard out, as far as that is cheap: a client that is cut short may never read the answer.
        let _ =
            tokio::time::timeout(BODY_WITHIN, collect(request.into_body(), HEARD_OUT_BYTES_MAX))
                .await;
        return too_long().into_response();
    }
    let within = match request.uri().path() {
        "/v1/reload" => RELOAD_WITHIN,
        _ => ANSWER_WITHIN,
    };
    match tokio::time::timeout(within, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let error = format!("no answer within {} s", within.as_secs());
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error)
                .hint("ask for fewer items at once; look at the daemon's log")
                .into_response()
        }
    }
}

fn too_long() -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long")
        .hint(format!("at most {BODY_BYTES_MAX} bytes"))
}

async fn nowhere(uri: Uri) -> Refusal {
    let path = uri.path();
    let lists = LISTS.map(|list| format!("/v1/{list}"));
    let known: Vec<&str> = lists.iter().map(String::as_str).chain(OTHERS).collect();
    let refusal = Refusal::new(StatusCode::NOT_FOUND, format!("there is no `{path}`"));
    refusal.meant(path, &known)
}

async fn wrong_verb(method: Method, uri: Uri) -> Response {
    let path = uri.path();
    let list = path.strip_prefix("/v1/").is_some_and(|name| LISTS.contains(&name));
    if !list && !OTHERS.contains(&path) {
        return nowhere(uri).await.into_response();
    }
    let right = if path == "/v1/reload" { "POST" } else { "GET" };
    let error = format!("`{path}` does not take {method}");
    let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, error).hint(format!("use {right}"));
    let mut response = refusal.into_response();
    let allow = if right == "GET" { "GET,HEAD" } else { right };
    response.headers_mut().insert(ALLOW, allow.parse().expect("a list of verbs is a header"));
    response
}

async fn version() -> Response {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    respond(Ok(Version { version, api: 1 }))
}

async fn status(State(shared): Gate) -> Response {
    respond(shared.state().await.map(|state| status_of(&state)))
}

fn status_of(state: &StateView) -> Status {
    let since = state.started_at.duration_since(std::time::UNIX_EPOCH);
    let ports = state.tables.ports.iter().flatten();
    let config = &state.config;
    let sum = |count: fn(&crate::view::Link) -> u64| state.workers.iter().map(count).sum();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        config: state.source.as_ref().map(|source| source.display().to_string()),
        generation: state.tables.generation,
        started_at_s: since.map_or(0, |since| since.as_secs()),
        uptime_s: tables::seconds(Instant::now().duration_since(state.started)),
        workers: state.workers.len() as u64,
        networks: config.networks.len() as u64,
        endpoints: config.endpoints.len() as u64,
        ports: ports.count() as u64,
        ports_down: state.ports_down.len() as u64,
        publish: state.tables.publish.entries().len() as u64,
        flows: sum(|worker| worker.counters.worker.flows.get()),
        rx_packets: state.workers.iter().map(|worker| sums::received(state, worker)).sum(),
        dropped_packets: sum(sums::dropped),
        reloads_applied: state.reloads.applied,
        reloads_refused: state.reloads.refused,
    }
}

async fn list(
    State(shared): Gate,
    Path(name): Path<String>,
    uri: Uri,
    pairs: Result<Pairs<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
) -> Response {
    if !LISTS.contains(&name.as_str()) {
        return nowhere(uri).await.into_response();
    }
    match ready(&shared, &name, pairs).await {
        Ok((state, query)) => {
            let turnstile = &shared.turnstile;
            match name.as_str() {
                "networks" => respond(lists::networks(&state, &query)),
                "endpoints" => respond(lists::endpoints(&state, &query)),
                "ports" => respond(lists::ports(&state, &query)),
                "routes" => respond(lists::routes(&state, &query)),
                "publish" => respond(lists::publish(&state, &query)),
                "policy" => respond(lists::policy(&state, &query)),
                "uplinks" => respond(lists::uplinks(&state, &query)),
                "drops" => respond(lists::drops(&state, &query)),
                "fdb" => respond(tables::fdb(&state, turnstile, &query).await),
                "groups" => respond(groups::groups(&state, turnstile, &query).await),
                "flows" => respond(tables::flows(&state, turnstile, &query).await),
                "mtu" => respond(mtus::mtus(&state, turnstile, &query).await),
                "neighbours" => respond(tables::neighbours(&state, turnstile, &query).await),
                _ => respond(tables::workers(&state, &query).await),
            }
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// What a list is made from.
async fn ready(
    shared: &Shared,
    name: &str,
    pairs: Result<Pairs<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
) -> Result<(StateView, Query), Refusal> {
    let Pairs(pairs) = pairs.map_err(|rejection| Refusal::bad(rejection.body_text()))?;
    let filters: &[&str] = match name {
        "flows" => &["endpoint", "network", "protocol", "address"],
        "fdb" | "groups" => &["network"],
        _ => &[],
    };
    let query = Query::new(pairs, filters)?;
    Ok((shared.state().await?, query))
}

/// What would become of a packet: asked of the worker that owns its flow.
async fn explained(
    State(shared): Gate,
    pairs: Result<Pairs<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
) -> Response {
    respond(explain::explain(&shared, pairs).await)
}

/// Live packets, line by line.
async fn traced(
    State(shared): Gate,
    Extension(lasting): Extension<trace::Lasting>,
    pairs: Result<Pairs<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
) -> Response {
    match trace::trace(shared, &lasting, pairs).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn reload_config(State(shared): Gate, body: Body) -> Response {
    respond(reload_asked(shared, body).await)
}

async fn reload_asked(shared: Arc<Shared>, body: Body) -> Result<super::model::Reload, Refusal> {
    let request = parse_reload(&read(body).await?)?;
    let control = shared.control.clone();
    let reload = tokio::task::spawn_blocking(move || reload::reload(&control, request));
    reload.await.expect("a reload does not panic")
}

/// The whole body, if it is not too long and comes in time.
async fn read(body: Body) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(BODY_WITHIN, collect(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(error)) => Err(Refusal::bad(format!("the body broke off: {error}"))),
        Err(_) => {
            let error = format!("no body within {} s", BODY_WITHIN.as_secs());
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, error))
        }
    }
}

async fn collect(
    body: Body,
    bytes_max: usize,
) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Limited::new(body, bytes_max).collect().await?.to_bytes())
}

fn parse_reload(body: &[u8]) -> Result<ReloadRequest, Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(ReloadRequest::default());
    }
    serde_json::from_slice(body).map_err(|error| {
        Refusal::bad(format!("the body is wrong: {error}")).hint("nothing, or {\"dry_run\": true}")
    })
}

async fn metrics_text(State(shared): Gate, headers: HeaderMap) -> Response {
    let state = match shared.state().await {
        Ok(state) => state,
        Err(refusal) => return refusal.into_response(),
    };
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let format = metrics::Format::wanted(accept);
    let mut response = Response::new(Body::from(metrics::text(&state, format)));
    let kind = format.content_type().parse().expect("a content type is a header");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
