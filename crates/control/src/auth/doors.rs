//! Tokens of the server's own doors: programs inside the server that answer foreign protocols and call the API like anybody else.
//!
//! They are made at each start, live in memory, and end with the process: nothing of them is in the state, in a list of tokens or on disk.
//! Their names have a colon, which no token of a user has, so that the audit journal tells them apart.

use super::{Caller, keys};
use crate::{core::Control, error::Refusal};
use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};
use uuid::Uuid;
use yun_types::{TokenId, TokenSpec};

/// The doors that were let in, by the hashes of their secrets.
#[derive(Default)]
pub struct Doors(Mutex<HashMap<String, Caller>>);

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doors").finish_non_exhaustive()
    }
}

impl Doors {
    /// A secret for a door that may do what `spec` says. The audit journal calls it `door:NAME`.
    pub fn admit(&self, name: &str, spec: TokenSpec) -> Result<String, Refusal> {
        self.let_in(name, spec, String::new())
    }

    /// A secret for somebody whom a door let in, from where the door says, until the guard is dropped.
    pub fn admit_guest(
        &self,
        control: &Arc<Control>,
        name: &str,
        spec: TokenSpec,
        from: IpAddr,
    ) -> Result<(String, DoorGuard), Refusal> {
        let secret = self.let_in(name, spec, from.to_string())?;
        let guard = DoorGuard { control: Arc::clone(control), hash: keys::hash(&secret) };
        Ok((secret, guard))
    }

    fn let_in(&self, name: &str, spec: TokenSpec, from: String) -> Result<String, Refusal> {
        let secret = keys::new_secret().map_err(|e| Refusal::internal(format!("make a secret for door {name}"), e))?;
        let caller = Caller {
            name: format!("door:{name}"),
            token: TokenId(Uuid::new_v4()),
            cloud: spec.cloud,
            projects: spec.projects,
            from,
            request_id: String::new(),
            once: None,
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(keys::hash(&secret), caller);
        Ok(secret)
    }

    fn dismiss(&self, hash: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(hash);
    }

    /// The door with this secret.
    pub(super) fn holder(&self, secret: &str) -> Option<Caller> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&keys::hash(secret)).cloned()
    }

    /// Whether this is the token of a door.
    pub(super) fn has(&self, token: TokenId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().any(|door| door.token == token)
    }
}

/// Somebody whom a door let in. Their secret ends with this value.
pub struct DoorGuard {
    control: Arc<Control>,
    hash: String,
}

impl fmt::Debug for DoorGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoorGuard").finish_non_exhaustive()
    }
}

impl Drop for DoorGuard {
    fn drop(&mut self) {
        self.control.doors.dismiss(&self.hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yun_types::Role;

    #[test]
    fn a_door_has_its_roles_and_a_name_that_no_token_has() {
        let doors = Doors::default();
        let spec = TokenSpec { cloud: Some(Role::Viewer), ..TokenSpec::default() };
        let secret = doors.admit("docker", spec).unwrap();
        let door = doors.holder(&secret).unwrap();
        assert_eq!((door.name.as_str(), door.cloud), ("door:docker", Some(Role::Viewer)));
        assert!(door.name.parse::<yun_types::Name>().is_err());
        assert!(doors.has(door.token) && doors.holder("yun_x").is_none());
    }
}
