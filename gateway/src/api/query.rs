//! What stands behind the `?` of a path: a piece of a list, and which of its items.
//!
//! Keys that a resource does not know are refused, with the nearest one that it knows: a filter
//! that is passed over would show too much. The one hard constraint: no text panics.

use super::answer::Refusal;
use super::model::Page;

/// Items of a piece if nobody says how many.
pub(super) const LIMIT_DEFAULT: usize = 1_000;

/// Most items of a piece: more would make an answer of several megabytes.
pub(super) const LIMIT_MAX: usize = 10_000;

/// Keys that every list takes.
const PAGING: [&str; 2] = ["limit", "cursor"];

/// Keys and values of a request.
#[derive(Debug)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Takes keys apart and looks whether each is known and there once.
    pub(super) fn new(pairs: Vec<(String, String)>, filters: &[&str]) -> Result<Query, Refusal> {
        let known: Vec<&str> = PAGING.iter().chain(filters).copied().collect();
        for (index, (key, _)) in pairs.iter().enumerate() {
            if !known.contains(&key.as_str()) {
                return Err(Refusal::bad(format!("unknown key `{key}`")).meant(key, &known));
            }
            if pairs[..index].iter().any(|(other, _)| other == key) {
                return Err(Refusal::bad(format!("`{key}` is there twice")));
            }
        }
        Ok(Query { pairs })
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(other, _)| other == key).map(|(_, value)| value.as_str())
    }

    /// How many items the piece may have.
    pub(super) fn limit(&self) -> Result<usize, Refusal> {
        let Some(text) = self.get("limit") else { return Ok(LIMIT_DEFAULT) };
        match text.parse() {
            Ok(limit @ 1..=LIMIT_MAX) => Ok(limit),
            _ => Err(Refusal::bad(format!("`limit={text}`"))
                .hint(format!("a number from 1 to {LIMIT_MAX}"))),
        }
    }

    /// Where the piece begins: two numbers, which only the resource understands.
    pub(super) fn cursor(&self) -> Result<Option<(u64, u64)>, Refusal> {
        let Some(text) = self.get("cursor") else { return Ok(None) };
        let parts =
            text.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match parts {
            Some(cursor) => Ok(Some(cursor)),
            None => Err(Refusal::bad(format!("`cursor={text}` is no cursor"))
                .hint("take it from `next` of the piece before, or leave it out")),
        }
    }

    /// The piece of a list that the config gives: such a list is the same until the next reload.
    pub(super) fn page<I, T>(
        &self,
        generation: u64,
        items: &[I],
        show: impl FnMut(&I) -> T,
    ) -> Result<Page<T>, Refusal> {
        let first = match self.cursor()? {
            None => 0,
            Some((at, _)) if at != generation => {
                let error = "the config has changed since the piece before";
                let status = axum::http::StatusCode::GONE;
                return Err(Refusal::new(status, error).hint("begin again without a cursor"));
            }
            Some((_, first)) => usize::try_from(first).unwrap_or(usize::MAX).min(items.len()),
        };
        let end = items.len().min(first.saturating_add(self.limit()?));
        Ok(Page {
            items: items[first..end].iter().map(show).collect(),
            next: (end < items.len()).then(|| format!("{generation}.{end}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &[(&str, &str)]) -> Result<Query, Refusal> {
        let pairs = text.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
        Query::new(pairs.collect(), &["endpoint"])
    }

    #[test]
    fn pieces_make_up_the_whole_list() {
        let items: Vec<u32> = (0..10).collect();
        let (mut all, mut next) = (Vec::new(), None);
        loop {
            let mut pairs = vec![("limit", "3")];
            pairs.extend(next.as_deref().map(|next| ("cursor", next)));
            let page = query(&pairs).unwrap().page(7, &items, |&item| item).unwrap();
            all.extend(page.items);
            match page.next {
                Some(cursor) => next = Some(cursor),
                None => break,
            }
        }
        assert_eq!(all, items);
    }

    #[test]
    fn a_cursor_of_another_config_and_no_cursor_at_all_are_told_apart() {
        let at = |cursor| query(&[("cursor", cursor)]).unwrap().page(7, &[1], |&item| item);
        assert_eq!(at("6.0").unwrap_err().status, 410);
        for cursor in ["", "x", "7", "7.", "7.x", "-7.0", "7.0.1"] {
            assert_eq!(at(cursor).unwrap_err().status, 400, "{cursor}");
        }
        assert!(at("7.18446744073709551615").unwrap().items.is_empty());
    }

    #[test]
    fn a_key_that_is_unknown_or_there_twice_is_refused() {
        let refusal = query(&[("endpiont", "web")]).unwrap_err();
        assert_eq!(refusal.failure.hint.as_deref(), Some("did you mean `endpoint`?"));
        assert_eq!(query(&[("limit", "1"), ("limit", "2")]).unwrap_err().status, 400);
        for limit in ["0", "10001", "-1", "many", ""] {
            assert_eq!(query(&[("limit", limit)]).unwrap().limit().unwrap_err().status, 400);
        }
    }
}
