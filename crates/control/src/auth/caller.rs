//! Who sent a request, and what they may do. Knows roles; never reads the state.

use crate::{error::Refusal, http::idempotency::Once};
use std::collections::BTreeMap;
use yun_types::{Name, ObjectKind, Role, TokenId};

/// Who sent a request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The token's name.
    pub name: String,
    /// The token.
    pub token: TokenId,
    /// The role in the whole cloud: every project, the nodes, the projects themselves.
    pub cloud: Option<Role>,
    /// The role in single projects.
    pub projects: BTreeMap<Name, Role>,
    /// Where the request came from.
    pub from: String,
    /// The request's id, as the answer and the log have it.
    pub request_id: String,
    /// Set if the request has an idempotency key: what creates something adds [`Once::add_to`] to its transaction.
    pub once: Option<Once>,
}

impl Caller {
    /// The role in a project: the higher of that in the project and that in the cloud.
    pub fn role_in(&self, project: &Name) -> Option<Role> {
        self.projects.get(project).copied().max(self.cloud)
    }

    /// Whether the caller may know that the project exists.
    pub fn sees(&self, project: &Name) -> bool {
        self.role_in(project).is_some()
    }

    /// Whether the caller has at least this role in the whole cloud.
    pub fn has_cloud(&self, role: Role) -> bool {
        self.cloud >= Some(role)
    }

    /// Refuses unless the caller has at least this role in the project. To who does not see it, the project does not exist.
    pub fn require(&self, project: &Name, role: Role) -> Result<(), Refusal> {
        match self.role_in(project) {
            Some(has) if has >= role => Ok(()),
            Some(has) => Err(Refusal::forbidden(format!(
                "token {} has the role {has} in project {project}, and this needs {role}; ask an admin of the project for a token with that role",
                self.name
            ))),
            None => Err(Refusal::not_found(ObjectKind::Project, project, None)),
        }
    }

    /// Refuses unless the caller has at least this role in the whole cloud.
    pub fn require_cloud(&self, role: Role) -> Result<(), Refusal> {
        if self.has_cloud(role) {
            return Ok(());
        }
        let has = self.cloud.map_or_else(|| "no role".to_owned(), |has| format!("the role {has}"));
        Err(Refusal::forbidden(format!(
            "token {} has {has} in the cloud, and this needs {role}; ask an admin of the cloud for a token with that role",
            self.name
        )))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use dropshot::ErrorStatusCode;

    /// A caller with these roles.
    pub(crate) fn caller(cloud: Option<Role>, projects: &[(&str, Role)]) -> Caller {
        Caller {
            name: "test".into(),
            token: TokenId(uuid::Uuid::nil()),
            cloud,
            projects: projects.iter().map(|(name, role)| (name.parse().unwrap(), *role)).collect(),
            from: "127.0.0.1".into(),
            request_id: "r".into(),
            once: None,
        }
    }

    #[test]
    fn the_higher_role_counts_and_foreign_projects_do_not_exist() {
        let (a, b): (Name, Name) = ("a".parse().unwrap(), "b".parse().unwrap());
        let editor = caller(None, &[("a", Role::Editor)]);
        assert!(editor.require(&a, Role::Editor).is_ok());
        assert_eq!(editor.require(&a, Role::Admin).unwrap_err().status, ErrorStatusCode::FORBIDDEN);
        assert_eq!(editor.require(&b, Role::Viewer).unwrap_err().status, ErrorStatusCode::NOT_FOUND);
        assert_eq!(editor.require_cloud(Role::Viewer).unwrap_err().status, ErrorStatusCode::FORBIDDEN);

        let both = caller(Some(Role::Viewer), &[("a", Role::Admin)]);
        assert_eq!((both.role_in(&a), both.role_in(&b)), (Some(Role::Admin), Some(Role::Viewer)));
        assert!(caller(Some(Role::Admin), &[]).require(&b, Role::Admin).is_ok());
    }
}
