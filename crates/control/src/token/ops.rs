//! What the API asks of tokens. Nobody can give what they do not have, nor see or revoke a token that reaches further than they do.

use crate::{
    auth::{Caller, keys},
    core::Control,
    error::{Refusal, nearest},
    rows::{StoredToken, TokenRow},
};
use std::sync::Arc;
use uuid::Uuid;
use yun_api::cloud::{TokenCreate, TokenCreated};
use yun_store::{Row, StoreError, Table, Txn, commit};
use yun_types::{Generation, Labels, Metadata, Name, NameOrId, ObjectKind, Role, Token, TokenId, TokenSpec};

/// The token that is made at the first start.
const FIRST: &str = "admin";

/// Whether the caller may see and revoke the token: as an admin of everything that it reaches.
pub fn governs(caller: &Caller, token: &Token) -> bool {
    let within = || {
        let projects = &token.spec.projects;
        token.spec.cloud.is_none()
            && !projects.is_empty()
            && projects.keys().all(|project| caller.role_in(project) == Some(Role::Admin))
    };
    caller.has_cloud(Role::Admin) || within()
}

/// Whether the token is in the caller's list: their own, and those that they govern.
pub fn shows(caller: &Caller, token: &Token) -> bool {
    caller.token == TokenId(token.metadata.id) || governs(caller, token)
}

/// Creates a token. The answer holds its secret.
pub async fn create(control: &Arc<Control>, caller: &Caller, body: TokenCreate) -> Result<TokenCreated, Refusal> {
    check(control, caller, &body)?;
    insert(control, body.name, body.spec).await
}

fn check(control: &Control, caller: &Caller, body: &TokenCreate) -> Result<(), Refusal> {
    let TokenCreate { name, spec } = body;
    if spec.cloud.is_none() && spec.projects.is_empty() {
        return Err(Refusal::bad_request(
            "NoRole",
            format!(
                "token {name} would allow nothing: give it a role, as in --role editor --in default, or --cloud-role viewer"
            ),
        ));
    }
    if let Some(expires) = spec.expires.filter(|end| *end <= control.clock.now()) {
        return Err(Refusal::bad_request(
            "Expired",
            format!("token {name} would have expired at {expires}: choose a time in the future"),
        ));
    }
    if spec.cloud.is_some() {
        caller.require_cloud(Role::Admin)?;
    }
    for project in spec.projects.keys() {
        caller.require(project, Role::Admin)?;
        if control.projects.cache.get(&[project.as_str()]).is_none() {
            return Err(crate::project::not_found(control, caller, project));
        }
    }
    Ok(())
}

async fn insert(control: &Control, name: Name, spec: TokenSpec) -> Result<TokenCreated, Refusal> {
    let secret = keys::new_secret().map_err(|e| Refusal::internal(format!("make a secret for token {name}"), e))?;
    let metadata = Metadata {
        id: Uuid::new_v4(),
        name: name.clone(),
        project: None,
        labels: Labels::new(),
        created: control.clock.now(),
        generation: Generation(1),
        revision: String::new(),
        deleting: None,
    };
    let mut token = Token { metadata, spec };
    let row = TokenRow(StoredToken { token: token.clone(), secret_sha256: keys::hash(&secret) });
    let at = [name.as_str()];
    // The projects must still be there when the token is: see the deletion of projects.
    let mut txn = Txn::new().when(Table::<TokenRow>::cmp_absent(&at)).then(Table::<TokenRow>::op_put(&at, &row)?);
    for project in token.spec.projects.keys() {
        txn = txn.when(Table::<crate::rows::ProjectRow>::cmp_exists(&[project.as_str()]));
    }
    match commit(&*control.store, txn).await {
        Ok(out) => {
            control.tokens.cache.wait_for(out.rev).await?;
            token.metadata.revision = out.rev.to_string();
            Ok(TokenCreated { token, secret })
        }
        Err(StoreError::Exists { .. }) => Err(Refusal::conflict(
            "Exists",
            format!("token {name} exists already: choose another name, or revoke it first (yun token rm {name})"),
        )),
        Err(e) => Err(e.into()),
    }
}

/// Revokes a token.
pub async fn delete(control: &Arc<Control>, caller: &Caller, token: &NameOrId) -> Result<(), Refusal> {
    let rows = control.tokens.cache.all(&[]);
    let governed = || rows.iter().filter(|row| governs(caller, &row.value.0.token));
    let found = governed().find(|row| match token {
        NameOrId::Name(name) => row.value.0.token.metadata.name == *name,
        NameOrId::Id(id) => row.value.0.token.metadata.id == *id,
    });
    let Some(row) = found else {
        let near = nearest(&token.to_string(), governed().map(|row| row.value.0.token.metadata.name.as_str()));
        return Err(Refusal::not_found(ObjectKind::Token, token, near));
    };
    let name = &row.value.0.token.metadata.name;
    let at = [name.as_str()];
    let mut txn = Txn::new().when(Table::<TokenRow>::cmp_rev(&at, row.rev)).then(Table::<TokenRow>::op_del(&at));
    if lasting_admin(row) {
        let Some(other) = rows.iter().find(|other| lasting_admin(other) && other.key != row.key) else {
            return Err(Refusal::conflict(
                "LastAdmin",
                format!(
                    "token {name} cannot be revoked: no other token of an admin of the cloud lasts; \
                     create one first (yun token create NAME --cloud-role admin)"
                ),
            ));
        };
        // Two admins who revoke each other's token at the same moment: one of them is late.
        txn = txn.when(Table::<TokenRow>::cmp_exists(&[other.value.0.token.metadata.name.as_str()]));
    }
    let out = commit(&*control.store, txn).await?;
    control.tokens.cache.wait_for(out.rev).await?;
    Ok(())
}

fn lasting_admin(row: &Row<TokenRow>) -> bool {
    row.value.0.token.spec.cloud == Some(Role::Admin) && row.value.0.token.spec.expires.is_none()
}

/// Makes the first admin's token if this cloud has no token at all, and gives its secret: keep it, it is shown nowhere else.
pub async fn first_admin_token(control: &Control) -> Result<Option<String>, Refusal> {
    if !control.tokens.cache.is_empty() {
        return Ok(None);
    }
    let spec = TokenSpec { cloud: Some(Role::Admin), ..TokenSpec::default() };
    insert(control, FIRST.parse()?, spec).await.map(|created| Some(created.secret))
}

/// Gives the token `admin` a new secret, for an installation that lost it; the old one stops working. Only for who owns the machine: nothing
/// in the API leads here.
pub async fn reissue_admin_token(control: &Control) -> Result<String, Refusal> {
    if let Some(row) = control.tokens.table.get(&[FIRST]).await? {
        let rev = control.tokens.table.delete(&[FIRST], row.rev).await?;
        control.tokens.cache.wait_for(rev).await?;
    }
    let spec = TokenSpec { cloud: Some(Role::Admin), ..TokenSpec::default() };
    insert(control, FIRST.parse()?, spec).await.map(|created| created.secret)
}
