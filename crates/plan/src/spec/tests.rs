//! Tests of what may be asked of an instance, and what may be changed later.

use super::*;
use crate::samples;
use proptest::prelude::*;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@home";

fn container(change: impl FnOnce(&mut ContainerOptions)) -> Result<(), Refused> {
    let mut spec = samples::instance("web").spec;
    change(&mut spec.container);
    check(&spec, InstanceKind::Container, Trust::Project)
}

fn vm(change: impl FnOnce(&mut VmOptions)) -> Result<(), Refused> {
    let mut spec = samples::instance("web").spec;
    change(&mut spec.vm);
    check(&spec, InstanceKind::Vm, Trust::Project)
}

fn text(result: Result<(), Refused>) -> String {
    result.unwrap_err().message
}

fn bind(source: &str, target: &str) -> Mount {
    Mount::Bind { source: source.into(), target: target.into(), read_only: false }
}

fn tmpfs(target: &str) -> Mount {
    Mount::Tmpfs { target: target.into(), size: None }
}

#[test]
fn ssh_keys_must_be_public_keys() {
    assert_eq!(vm(|o| o.ssh_keys = vec![KEY.into(), format!("{KEY}\n")]), Ok(()));
    for (key, why) in [
        ("", "damaged"),
        ("hello", "unknown type"),
        ("ssh-ed25519", "damaged"),
        ("ssh-ed25519 AAAA", "damaged"),
        (&format!("{KEY}\nssh-rsa x"), "more than one line"),
        (&KEY.replace("AAAAC3", "BBBB!3"), "damaged"),
    ] {
        let error = text(vm(|o| o.ssh_keys = vec![key.into()]));
        assert!(error.contains(why) && error.contains("id_ed25519.pub"), "{key}: {error}");
    }
    let private = text(vm(|o| o.ssh_keys = vec!["-----BEGIN OPENSSH PRIVATE KEY-----\nsecret".into()]));
    assert!(private.contains("private key") && !private.contains("secret"), "{private}");
}

#[test]
fn user_data_has_a_limit() {
    assert_eq!(vm(|o| o.user_data = Some("x".repeat(64 << 10))), Ok(()));
    assert!(
        text(vm(|o| o.user_data = Some("x".repeat((64 << 10) + 1)))).contains("65537 bytes, and 64 KiB is the most")
    );
    assert!(text(vm(|o| o.boot_timeout = Some(0))).contains("at least 1 second"));
}

#[test]
fn env_names_are_those_of_shells() {
    assert_eq!(
        container(|o| o.env = [("PATH".into(), "/bin".into()), ("a.b-c_1".into(), String::new())].into()),
        Ok(())
    );
    for name in ["", "1A", "A B", "A=B", "Ä", "A\0"] {
        assert!(text(container(|o| o.env = [(name.into(), "x".into())].into())).contains("DATABASE_URL="), "{name}");
    }
    assert!(text(container(|o| o.env = [("A".into(), "x\0y".into())].into())).contains("zero byte"));
}

#[test]
fn commands_and_directories_are_usable() {
    assert!(text(container(|o| o.command = Some(vec!["a\0".into()]))).contains("command contains a zero byte"));
    assert!(text(container(|o| o.entrypoint = Some(vec![String::new()]))).contains("empty word"));
    assert!(text(container(|o| o.workdir = Some("srv".into()))).contains("not absolute"));
    assert!(text(container(|o| o.pids = Some(0))).contains("at least 1"));
    for good in ["SIGTERM", "TERM", "15", "SIGRTMIN+3"] {
        assert_eq!(container(|o| o.stop_signal = Some(good.into())), Ok(()), "{good}");
    }
    for bad in ["SIGNOPE", "0", "65", "", "term", "SIGRTMIN+99"] {
        assert!(text(container(|o| o.stop_signal = Some(bad.into()))).contains("as in SIGTERM"), "{bad}");
    }
}

#[test]
fn mounts_are_absolute_distinct_and_within_rights() {
    assert_eq!(container(|o| o.mounts = vec![tmpfs("/tmp"), tmpfs("/run/")]), Ok(()));
    assert!(text(container(|o| o.mounts = vec![tmpfs("tmp")])).contains("target \"tmp\" is not absolute"));
    assert!(text(container(|o| o.mounts = vec![tmpfs("/")])).contains("hide the whole image"));
    assert!(text(container(|o| o.mounts = vec![tmpfs("/a/../etc")])).contains("contains .."));
    assert!(text(container(|o| o.mounts = vec![tmpfs("/a"), tmpfs("/a/")])).contains("two mounts have the target /a"));

    let mut spec = samples::instance("web").spec;
    spec.container.mounts = vec![bind("/srv/site", "/www")];
    let refused = check(&spec, InstanceKind::Container, Trust::Project).unwrap_err();
    assert_eq!((refused.code, refused.message.contains("only admins of the cloud")), ("Forbidden", true));
    assert_eq!(check(&spec, InstanceKind::Container, Trust::Cloud), Ok(()));
    spec.container.mounts = vec![bind("srv", "/www")];
    assert!(
        check(&spec, InstanceKind::Container, Trust::Cloud)
            .unwrap_err()
            .message
            .contains("source \"srv\" is not absolute")
    );
}

#[test]
fn options_of_the_other_kind_are_not_silently_dropped() {
    let mut spec = samples::instance("web").spec;
    spec.vm.ssh_keys = vec![KEY.into()];
    assert!(text(check(&spec, InstanceKind::Container, Trust::Project)).contains("this is a container"));
    let mut spec = samples::instance("web").spec;
    spec.container.tty = true;
    assert!(text(check(&spec, InstanceKind::Vm, Trust::Project)).contains("this is a VM"));
}

#[test]
fn limits_of_both_kinds() {
    let mut spec = samples::instance("web").spec;
    spec.stop_timeout = Some(MAX_STOP_TIMEOUT + 1);
    assert!(text(check(&spec, InstanceKind::Container, Trust::Project)).contains("at most 3600 seconds"));
    spec.stop_timeout = Some(0);
    spec.publish = vec!["80:80".parse().unwrap(), "80:81".parse().unwrap()];
    assert!(text(check(&spec, InstanceKind::Container, Trust::Project)).contains("80:80 and 80:81"));
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,60}") {
        let _ = vm(|o| o.ssh_keys = vec![text.clone()]);
        let _ = container(|o| {
            o.env = [(text.clone(), text.clone())].into();
            o.workdir = Some(text.clone());
            o.stop_signal = Some(text.clone());
            o.mounts = vec![tmpfs(&text)];
        });
    }

    #[test]
    fn what_is_accepted_as_a_mount_stays_inside(target in "[/a-z.]{0,12}") {
        if container(|o| o.mounts = vec![tmpfs(&target)]).is_ok() {
            prop_assert!(target.starts_with('/') && !target.split('/').any(|part| part == ".."));
        }
    }
}
