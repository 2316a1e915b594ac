//! Images: what instances start from.
//!
//! The catalogue is a table of names; contents live on nodes and are named by their digests. A project finds an image by looking into its
//! own catalogue first and into that of project `default` second: that one is the library that all projects share. Only the owner changes
//! or deletes an image.

pub mod ops;
mod reconcile;
#[cfg(test)]
mod tests;
mod work;

pub(crate) use reconcile::start;

use crate::{core::Control, error::Refusal, rows::ImageRow};
use std::sync::Arc;
use yun_plan::names;
use yun_store::Row;
use yun_types::{Name, ObjectKind, Reference};

/// The fewest digits of a digest that name an image.
const FEWEST_DIGITS: usize = 6;

/// The image that `text` names for a project: a name, `PROJECT/NAME` for the project itself or the library, an id, or the start of a digest.
pub(crate) fn locate(c: &Control, project: &Name, text: &str) -> Result<Arc<Row<ImageRow>>, Refusal> {
    let library = Name::default_project();
    if let Some(reference) = Reference::is_meant(text).then(|| text.parse::<Reference>().ok()).flatten() {
        return pulled(c, project, &reference).ok_or_else(|| not_pulled(text, &reference));
    }
    if let Some((owner, name)) = text.split_once('/')
        && (owner == project.as_str() || owner == library.as_str())
    {
        return c.images.cache.get(&[owner, name]).ok_or_else(|| not_found(c, project, text));
    }
    if let Some(row) = own(c, project, text)? {
        return Ok(row);
    }
    if *project != library
        && let Some(row) = own(c, &library, text)?
    {
        return Ok(row);
    }
    Err(not_found(c, project, text))
}

/// The image of the project itself that `text` names: what may be changed and deleted.
pub(crate) fn locate_own(c: &Control, project: &Name, text: &str) -> Result<Arc<Row<ImageRow>>, Refusal> {
    if let Some(row) = own(c, project, text)? {
        return Ok(row);
    }
    if let Some(row) = Reference::is_meant(text).then(|| pulled(c, project, &text.parse().ok()?)).flatten()
        && row.value.0.metadata.project.as_ref() == Some(project)
    {
        return Ok(row);
    }
    let library = Name::default_project();
    match own(c, &library, text)? {
        Some(row) => {
            let name = &row.value.0.metadata.name;
            Err(Refusal::conflict(
                "NotYours",
                format!(
                    "image {name} belongs to project {library}, which shares it: name that project, as in --project {library}"
                ),
            ))
        }
        None => Err(not_found(c, project, text)),
    }
}

fn own(c: &Control, project: &Name, text: &str) -> Result<Option<Arc<Row<ImageRow>>>, Refusal> {
    if let Some(row) = c.images.cache.get(&[project.as_str(), text]) {
        return Ok(Some(row));
    }
    let rows = c.images.cache.all(&[project.as_str()]);
    if text.len() == 36
        && let Ok(id) = text.parse::<uuid::Uuid>()
    {
        return Ok(rows.into_iter().find(|row| row.value.0.metadata.id == id));
    }
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    if digits.len() < FEWEST_DIGITS || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let mut found = rows.into_iter().filter(|row| row.value.0.status.facts.digest.hex().starts_with(digits));
    let Some(first) = found.next() else { return Ok(None) };
    // Several names of one content are the same image to who asks by content.
    match found.find(|row| row.value.0.status.facts.digest != first.value.0.status.facts.digest) {
        None => Ok(Some(first)),
        Some(other) => Err(Refusal::conflict(
            "Ambiguous",
            format!(
                "{text} begins the digests of images {} and {}: give more digits, or a name",
                first.value.0.metadata.name, other.value.0.metadata.name
            ),
        )),
    }
}

/// The image that was pulled from a reference, the project's own first.
fn pulled(c: &Control, project: &Name, reference: &Reference) -> Option<Arc<Row<ImageRow>>> {
    let (library, source) = (Name::default_project(), reference.to_string());
    let of =
        |owner: &Name| c.images.cache.all(&[owner.as_str()]).into_iter().find(|row| row.value.0.spec.source == source);
    of(project).or_else(|| (*project != library).then(|| of(&library)).flatten())
}

fn not_pulled(text: &str, reference: &Reference) -> Refusal {
    let name = reference.suggested_name().map(|name| format!("{name} ")).unwrap_or_default();
    let message = format!("image {text} is not here: pull it first with yun image pull {name}{reference}");
    Refusal::new(dropshot::ErrorStatusCode::NOT_FOUND, "NotFound", message)
}

fn not_found(c: &Control, project: &Name, text: &str) -> Refusal {
    let mut rows = c.images.cache.all(&[project.as_str()]);
    rows.extend(c.images.cache.all(&[Name::default_project().as_str()]));
    let near = names::nearest(text, rows.iter().map(|row| row.value.0.metadata.name.as_str())).map(ToOwned::to_owned);
    if near.is_none() && rows.is_empty() {
        let message = format!(
            "image {text} does not exist: there are no images yet; make one with yun image build or yun image import"
        );
        return Refusal::new(dropshot::ErrorStatusCode::NOT_FOUND, "NotFound", message);
    }
    Refusal::not_found(ObjectKind::Image, text, near)
}
