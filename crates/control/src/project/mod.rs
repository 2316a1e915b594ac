//! Projects: the tenants. Each owns its instances, images, operations and one network, which is made with it.

pub mod ops;

use crate::{
    auth::Caller,
    core::Control,
    error::{Refusal, nearest},
    instance,
    rows::ProjectRow,
};
use yun_store::Row;
use yun_types::{Name, ObjectKind, Project};

/// The project with what its instances were promised.
pub fn view(control: &Control, row: &Row<ProjectRow>) -> Project {
    let mut project = row.value.0.clone();
    project.status.reserved = instance::reserved_by_project(control, &project.metadata.name);
    project.metadata.revision = row.rev.to_string();
    project
}

/// The refusal for a project that does not exist. Proposes only projects that the caller sees.
pub(crate) fn not_found(control: &Control, caller: &Caller, name: impl std::fmt::Display) -> Refusal {
    let rows = control.projects.cache.all(&[]);
    let seen = rows.iter().map(|row| &row.value.0.metadata.name).filter(|name| caller.sees(name)).map(Name::as_str);
    let near = nearest(&name.to_string(), seen);
    Refusal::not_found(ObjectKind::Project, name, near)
}
