//! Questions about the audit journal: the records that fit, newest first, page by page.

use super::Journal;
use crate::{
    error::Refusal,
    http::page::{Part, token},
};
use std::sync::Arc;
use yun_api::cloud::{AuditQuery, Page};
use yun_types::AuditRecord;

/// How many records are looked at together.
const TOGETHER: usize = 1000;
/// How many records are looked at for one page; a page may then be short, or empty, and the next one goes on.
const MOST_LOOKED_AT: usize = 20_000;

fn fits(record: &AuditRecord, query: &AuditQuery) -> bool {
    let AuditQuery { by, action, project, object, refused, since, .. } = query;
    // An action is recorded with its object: `web start`.
    let about = |wanted: &String| {
        record.object.as_ref().is_some_and(|object| object == wanted || object.split(' ').next() == Some(wanted))
    };
    by.as_ref().is_none_or(|wanted| *wanted == record.by)
        && action.as_ref().is_none_or(|wanted| *wanted == record.action)
        && project.as_ref().is_none_or(|wanted| record.project.as_ref() == Some(wanted))
        && object.as_ref().is_none_or(about)
        && (!refused.unwrap_or_default() || record.status >= 400)
        && since.is_none_or(|since| record.at >= since)
}

/// A page of the records that fit.
pub(crate) async fn page(journal: &Journal<AuditRecord>, query: &AuditQuery) -> Result<Page<AuditRecord>, Refusal> {
    let part = Part::new(query.limit, query.page_token.as_deref(), None)?;
    let before = part.after().map_or(Ok(u64::MAX), str::parse);
    let before = before.map_err(|_| {
        Refusal::bad_request(
            "BadPageToken",
            "cannot read the page_token: use next_page exactly as the page before gave it",
        )
    })?;
    let (records, next) = find(journal, before, part.limit(), query).await?;
    Ok(Page {
        items: records.iter().map(|record| AuditRecord::clone(record)).collect(),
        next_page: next.map(|sequence| token(&sequence.to_string())),
        revision: String::new(),
    })
}

/// At most `limit` records before `before` that fit, and where the next page begins.
async fn find(
    journal: &Journal<AuditRecord>,
    before: u64,
    limit: usize,
    query: &AuditQuery,
) -> Result<(Vec<Arc<AuditRecord>>, Option<u64>), Refusal> {
    let (mut found, mut place, mut looked) = (Vec::new(), before, 0);
    loop {
        let read = journal.before(place, TOGETHER).await;
        let records = read.map_err(|e| Refusal::internal("read the audit journal", e))?;
        let all = records.len() < TOGETHER;
        for record in records {
            place = record.sequence;
            if query.since.is_some_and(|since| record.at < since) {
                return Ok((found, None));
            }
            if fits(&record, query) {
                found.push(record);
                if found.len() == limit {
                    return Ok((found, (place > 1).then_some(place)));
                }
            }
        }
        looked += TOGETHER;
        if all {
            return Ok((found, None));
        }
        if looked >= MOST_LOOKED_AT {
            return Ok((found, (place > 1).then_some(place)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_by_who_what_and_how_it_ended() {
        let record = AuditRecord {
            sequence: 1,
            at: chrono::DateTime::UNIX_EPOCH,
            by: "ann".into(),
            from: "127.0.0.1".into(),
            action: "instance_action".into(),
            project: Some("lab".parse().unwrap()),
            object: Some("web start".into()),
            status: 404,
            request_id: "r".into(),
        };
        let fits = |change: &dyn Fn(&mut AuditQuery)| {
            let mut query = AuditQuery::default();
            change(&mut query);
            super::fits(&record, &query)
        };
        assert!(fits(&|_| {}));
        assert!(fits(&|q| q.by = Some("ann".into())) && !fits(&|q| q.by = Some("bob".into())));
        assert!(fits(&|q| q.object = Some("web".into())) && !fits(&|q| q.object = Some("we".into())));
        assert!(fits(&|q| q.project = Some("lab".parse().unwrap())) && !fits(&|q| q.action = Some("ping".into())));
        assert!(fits(&|q| q.refused = Some(true)));
        let later = chrono::DateTime::from_timestamp(1, 0);
        assert!(!fits(&|q| q.since = later));
    }
}
