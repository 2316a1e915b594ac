//! What the API asks of SSH keys. Who may ask was checked before.

use super::view;
use crate::{
    auth::Caller,
    core::Control,
    error::{Refusal, nearest},
    rows::{ProjectRow, SshKeyRow},
};
use std::sync::Arc;
use uuid::Uuid;
use yun_api::cloud::SshKeyCreate;
use yun_store::{Row, Table, Txn, commit};
use yun_types::{Generation, Metadata, Name, NameOrId, ObjectKind, Role, SshKey, SshKeyStatus};

/// The key of the project with this name or id.
pub fn find(c: &Control, project: &Name, key: &NameOrId) -> Result<Arc<Row<SshKeyRow>>, Refusal> {
    let rows = c.ssh_keys.cache.all(&[project.as_str()]);
    let found = rows.iter().find(|row| match key {
        NameOrId::Name(name) => row.value.0.metadata.name == *name,
        NameOrId::Id(id) => row.value.0.metadata.id == *id,
    });
    found.cloned().ok_or_else(|| {
        let near = nearest(&key.to_string(), rows.iter().map(|row| row.value.0.metadata.name.as_str()));
        Refusal::not_found(ObjectKind::SshKey, key, near)
    })
}

/// Adds a key to a project.
pub async fn create(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    body: SshKeyCreate,
) -> Result<Arc<Row<SshKeyRow>>, Refusal> {
    let SshKeyCreate { name, labels, spec } = body;
    if spec.role == Role::Admin {
        return Err(Refusal::bad_request(
            "BadRole",
            format!("SSH key {name} cannot have the role admin: editor enters instances, viewer does not"),
        ));
    }
    let at = [project.as_str(), name.as_str()];
    // Nobody else adds the same key meanwhile.
    let _alone = c.adding_key.lock().await;
    let owner = c.projects.cache.get(&[project.as_str()]).filter(|row| row.value.0.metadata.deleting.is_none());
    let owner = owner.ok_or_else(|| Refusal::not_found(ObjectKind::Project, project, None))?;
    if c.ssh_keys.cache.get(&at).is_some() {
        return Err(Refusal::conflict(
            "Exists",
            format!("SSH key {name} exists already: choose another name, or remove it first (yun ssh-key rm {name})"),
        ));
    }
    let rows = c.ssh_keys.cache.all(&[project.as_str()]);
    if let Some(same) = rows.iter().find(|row| row.value.0.spec.public_key.is_same(&spec.public_key)) {
        let other = &same.value.0.metadata.name;
        return Err(Refusal::conflict(
            "SameKey",
            format!(
                "SSH key {name} is in project {project} already, under the name {other}: use that, or remove it first (yun ssh-key rm {other})"
            ),
        ));
    }
    let metadata = Metadata {
        id: Uuid::new_v4(),
        name: name.clone(),
        project: Some(project.clone()),
        labels,
        created: c.clock.now(),
        generation: Generation(1),
        revision: String::new(),
        deleting: None,
    };
    let id = metadata.id;
    let row = SshKeyRow(SshKey { metadata, spec, status: SshKeyStatus::default() });
    let mut txn = Txn::new()
        .when(Table::<SshKeyRow>::cmp_absent(&at))
        .when(Table::<ProjectRow>::cmp_rev(&[project.as_str()], owner.rev))
        .then(Table::<SshKeyRow>::op_put(&at, &row)?);
    if let Some(once) = &caller.once {
        txn = once.add_to(txn, id)?;
    }
    let out = commit(&*c.store, txn).await.map_err(|e| {
        if e.is_conflict() {
            let name = &row.0.metadata.name;
            Refusal::conflict(
                "Conflict",
                format!("cannot add SSH key {name}: its project was changed meanwhile; try again"),
            )
        } else {
            e.into()
        }
    })?;
    c.ssh_keys.cache.wait_for(out.rev).await?;
    find(c, project, &NameOrId::Id(id))
}

/// Removes a key. The next login with it fails; the gateway ends those that are there.
pub async fn delete(c: &Arc<Control>, project: &Name, key: &NameOrId) -> Result<(), Refusal> {
    let row = find(c, project, key)?;
    let at = [project.as_str(), row.value.0.metadata.name.as_str()];
    let rev = c.ssh_keys.table.delete(&at, row.rev).await?;
    c.ssh_keys.cache.wait_for(rev).await?;
    Ok(())
}

/// The key of the project with this fingerprint, as it is now.
pub fn by_fingerprint(c: &Control, project: &Name, fingerprint: &str) -> Option<SshKey> {
    let rows = c.ssh_keys.cache.all(&[project.as_str()]);
    rows.iter().find(|row| row.value.0.spec.public_key.fingerprint() == fingerprint).map(|row| view(row))
}

/// Whether a key is there still.
pub fn is_there(c: &Control, key: &SshKey) -> bool {
    let project = key.metadata.project.as_ref().map_or("", Name::as_str);
    let row = c.ssh_keys.cache.get(&[project, key.metadata.name.as_str()]);
    row.is_some_and(|row| row.value.0.metadata.id == key.metadata.id && row.value.0.spec == key.spec)
}
