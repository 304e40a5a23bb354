//! What would become of a packet, from the worker that owns its flow.

use axum::extract::Query as Pairs;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use engine::explain::Explanation;
use engine::flow::FlowInput;

use super::answer::Refusal;
use super::query::Query;
use super::router::Shared;
use crate::explain::Question;
use crate::explain::ask;
use crate::explain::model::Explained;
use crate::explain::way;
use crate::explain::words::Names;

/// Keys that are needed or known.
const KEYS: [&str; 8] = ["from", "uplink", "to", "network", "size", "ttl", "no_df", "no_syn"];

/// Answers `GET /v1/explain`.
pub(super) async fn explain(
    shared: &Shared,
    pairs: Result<Pairs<Vec<(String, String)>>, QueryRejection>,
) -> Result<Explained, Refusal> {
    let Pairs(pairs) = pairs.map_err(|rejection| Refusal::bad(rejection.body_text()))?;
    let query = Query::new(pairs, &KEYS)?;
    let text = |key: &str| query.get(key).map(str::to_owned);
    let needed = |key: &str| {
        text(key).ok_or_else(|| {
            Refusal::bad(format!("`{key}` is missing"))
                .hint("`/v1/explain?from=ENDPOINT&to=ADDRESS:PORT/PROTOCOL`")
        })
    };
    let size = match text("size").map(|size| size.parse::<u32>()) {
        None => None,
        Some(Ok(size @ 28..=65_535)) => Some(size),
        Some(_) => return Err(Refusal::bad("`size`").hint("a number from 28 to 65535")),
    };
    let ttl = match text("ttl").map(|ttl| ttl.parse::<u8>()) {
        None => None,
        Some(Ok(ttl)) => Some(ttl),
        Some(Err(_)) => return Err(Refusal::bad("`ttl`").hint("a number from 0 to 255")),
    };
    let flag = |key: &str| match text(key).as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Refusal::bad(format!("`{key}`")).hint("`true` or `false`")),
    };
    let (no_df, no_syn) = (flag("no_df")?, flag("no_syn")?);
    let question = Question {
        from: needed("from")?,
        uplink: text("uplink"),
        to: needed("to")?,
        network: text("network"),
        size,
        ttl,
        no_df,
        no_syn,
    };
    let state = shared.state().await?;
    let asked = ask::asked(&question, &state.config, &state.tables)
        .map_err(|failure| Refusal { status: StatusCode::BAD_REQUEST, failure })?;
    let worker = |index: usize| state.workers.get(index).ok_or(crate::control::Ending);
    let ask = async |input: &FlowInput| -> Result<Explanation, Refusal> {
        let first = worker(0)?.explain(input).await?;
        Ok(match first.home == first.worker {
            true => first,
            false => worker(first.home.index())?.explain(input).await?,
        })
    };
    let first = ask(&asked.input).await?;
    let second = match &first.turned {
        Some(turned) => Some(ask(turned).await?),
        None => None,
    };
    let names = Names { config: &state.config, tables: &state.tables };
    Ok(way::told(names, &asked, &first, second.as_ref()))
}
