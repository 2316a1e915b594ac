//! Which parts of an instance's spec may change, and when a change takes effect.

use crate::{
    Refused,
    lifecycle::{self, Action, Step},
};
use yun_types::{ContainerOptions, Instance, InstanceKind, InstanceSpec, InstanceState as State, Power};

/// What an allowed change leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    /// Whether the size changed, so that room has to be found for it.
    pub resized: bool,
    /// Whether parts of it only count after the next restart.
    pub at_next_restart: bool,
}

/// Checks a changed spec against the instance. The changed spec has passed [`crate::spec::check`].
pub fn check(instance: &Instance, after: &InstanceSpec) -> Result<Effect, Refused> {
    let (name, before) = (&instance.metadata.name, &instance.spec);
    let fixed = |field: &str, have: String, way_out: String| {
        Err(Refused::new(
            "Fixed",
            format!("cannot change the {field} of instance {name} from {have}: it is fixed at creation; {way_out}"),
        ))
    };
    let anew = |flag: &str| format!("create another instance with {flag}, and delete this one");
    if after.kind.is_some() && after.kind != before.kind {
        return fixed(
            "kind",
            before.kind.map_or_else(String::new, |kind| kind.to_string()),
            anew("an image of that kind"),
        );
    }
    if after.image != before.image {
        return fixed("image", before.image.clone(), anew("that image"));
    }
    if after.template != before.template {
        let have = before.template.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
        return fixed("template", have, anew("that template"));
    }
    if after.node != before.node {
        return fixed(
            "node",
            before.node.as_ref().map_or_else(|| "any".to_owned(), ToString::to_string),
            anew("that node"),
        );
    }
    let sleeps = before.power == Power::Hibernated || instance.status.state == State::Hibernated;
    let plugged = |spec: &InstanceSpec| (spec.networks.clone(), spec.volumes.clone(), spec.size);
    if sleeps && plugged(after) != plugged(before) {
        return Err(Refused::new(
            "Hibernated",
            format!(
                "cannot change the size of instance {name} or what is plugged into it: it is hibernated, and its memory expects what was there; let it go on first (yun start {name}), or drop its memory (yun stop {name})"
            ),
        ));
    }
    if after.size.disk < before.size.disk {
        return Err(Refused::new(
            "DiskShrink",
            format!(
                "cannot make the disk of instance {name} smaller ({} to {}): data could be cut off; keep disk:{}, or create another instance and copy the data",
                before.size.disk, after.size.disk, before.size.disk
            ),
        ));
    }
    if after.restart_count < before.restart_count {
        return Err(Refused::new(
            "Stale",
            format!(
                "cannot set restart_count of instance {name} back from {} to {}: read it again and repeat the change",
                before.restart_count, after.restart_count
            ),
        ));
    }
    check_power(instance, after.power)?;
    Ok(Effect { resized: after.size != before.size, at_next_restart: counts_later(before, after) && alive(instance) })
}

/// A change of `power` in the spec follows the rules of the action that does the same.
fn check_power(instance: &Instance, after: Power) -> Result<(), Refused> {
    let before = instance.spec.power;
    let action = match (before, after) {
        (Power::Paused, Power::Running) => Action::Resume,
        (_, Power::Running) => Action::Start,
        (_, Power::Paused) => Action::Pause,
        (_, Power::Stopped) => Action::Stop,
        (_, Power::Hibernated) => Action::Hibernate,
    };
    if before == after {
        return Ok(());
    }
    lifecycle::decide(instance, action).map(|_: Step| ())
}

/// What a process reads only when it starts.
fn counts_later(before: &InstanceSpec, after: &InstanceSpec) -> bool {
    let (now, then) = (&before.container, &after.container);
    let mut container = ContainerOptions { health: then.health.clone(), ..now.clone() };
    // A machine takes on what it can at once, and its node says what it cannot.
    let mut size = after.size;
    if after.kind == Some(InstanceKind::Container) {
        // The kernel takes new limits of a running container at once.
        (container.pids, container.io) = (then.pids, then.io);
        size.disk = before.size.disk;
    }
    size != after.size || container != *then || before.vm != after.vm
}

fn alive(instance: &Instance) -> bool {
    !matches!(instance.status.state, State::Pending | State::Stopped | State::Failed | State::Hibernated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn refusal(change: impl FnOnce(&mut InstanceSpec)) -> String {
        let web = samples::instance("web");
        let mut after = web.spec.clone();
        change(&mut after);
        check(&web, &after).unwrap_err().message
    }

    #[test]
    fn what_is_fixed_is_refused_with_the_way_out() {
        assert!(
            refusal(|s| s.kind = Some(InstanceKind::Vm))
                .contains("cannot change the kind of instance web from container")
        );
        assert!(
            refusal(|s| s.image = "debian".into())
                .contains("image of instance web from busybox: it is fixed at creation; create another")
        );
        assert!(refusal(|s| s.node = Some(samples::name("b"))).contains("node of instance web from any"));
        let shrink = refusal(|s| s.size.disk = yun_types::Bytes::mib(50));
        assert!(shrink.contains("100Mi to 50Mi") && shrink.contains("keep disk:100Mi"), "{shrink}");
    }

    #[test]
    fn the_kind_may_be_left_out() {
        let web = samples::instance("web");
        let after = InstanceSpec { kind: None, ..web.spec.clone() };
        assert_eq!(check(&web, &after), Ok(Effect { resized: false, at_next_restart: false }));
    }

    #[test]
    fn a_new_size_counts_at_once() {
        let mut web = samples::instance("web");
        let mut more = web.spec.clone();
        more.size.memory = yun_types::Bytes::mib(128);
        assert_eq!(check(&web, &more), Ok(Effect { resized: true, at_next_restart: false }));
        web.spec.kind = Some(InstanceKind::Vm);
        let mut after = web.spec.clone();
        after.size.memory = yun_types::Bytes::mib(128);
        assert_eq!(check(&web, &after), Ok(Effect { resized: true, at_next_restart: false }));
        web.status.state = State::Stopped;
        assert_eq!(check(&web, &after), Ok(Effect { resized: true, at_next_restart: false }));
    }

    #[test]
    fn what_sleeps_keeps_what_is_plugged_into_it() {
        let mut web = samples::instance("web");
        (web.spec.power, web.status.state) = (Power::Hibernated, State::Hibernated);
        let mut after = web.spec.clone();
        after.volumes = vec!["data".parse().unwrap()];
        assert!(check(&web, &after).unwrap_err().message.contains("let it go on first (yun start web)"));
        after.power = Power::Running;
        assert!(check(&web, &after).is_err());
        assert!(check(&web, &InstanceSpec { power: Power::Running, ..web.spec.clone() }).is_ok());
    }

    #[test]
    fn ports_and_policies_count_at_once() {
        let web = samples::instance("web");
        let mut after = web.spec.clone();
        after.publish = vec!["8080:80".parse().unwrap()];
        after.restart = yun_types::RestartPolicy::Never;
        assert_eq!(check(&web, &after), Ok(Effect { resized: false, at_next_restart: false }));
    }

    #[test]
    fn power_follows_the_rules_of_actions() {
        let mut web = samples::instance("web");
        web.spec.power = Power::Stopped;
        web.status.state = State::Stopped;
        let paused = InstanceSpec { power: Power::Paused, ..web.spec.clone() };
        assert!(check(&web, &paused).unwrap_err().message.contains("only a running instance can be paused"));
        let running = InstanceSpec { power: Power::Running, ..web.spec.clone() };
        assert!(check(&web, &running).is_ok());
        let counted = InstanceSpec { restart_count: 3, ..web.spec.clone() };
        web.spec.restart_count = 4;
        assert!(check(&web, &counted).unwrap_err().message.contains("back from 4 to 3"));
    }
}
