//! What a container's main process is: the image's word, and the user's word over it. Pure.

use std::collections::BTreeMap;
use yun_types::{ContainerConfig, ContainerOptions};

/// What asks a container to end if nobody says otherwise.
pub(super) const STOP_SIGNAL: &str = "SIGTERM";

/// Where programs are looked for if nobody says otherwise.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The main process, before anything was looked up in the file tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The program and its arguments. Empty if neither the image nor the user names one.
    pub(super) arguments: Vec<String>,
    /// The environment; later words have replaced earlier ones.
    pub(super) env: BTreeMap<String, String>,
    /// `user[:group]`.
    pub(super) user: String,
    /// Where it starts.
    pub(super) workdir: String,
    /// The signal that asks it to end.
    pub(super) stop_signal: String,
}

/// Merges both. An entrypoint of the user's drops the image's command, which was meant for the image's entrypoint; an empty text counts as
/// nothing said.
pub(super) fn merge(image: &ContainerConfig, options: &ContainerOptions) -> Wanted {
    let (entrypoint, inherited) = match &options.entrypoint {
        Some(entrypoint) => (entrypoint, &[][..]),
        None => (&image.entrypoint, &image.command[..]),
    };
    let command = options.command.as_deref().unwrap_or(inherited);
    let said = |word: &Option<String>| word.clone().filter(|text| !text.is_empty());
    let mut env = BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]);
    add_env(&mut env, &image.env);
    env.extend(options.env.clone());
    Wanted {
        arguments: entrypoint.iter().chain(command).cloned().collect(),
        env,
        user: said(&options.user).or_else(|| said(&image.user)).unwrap_or_default(),
        workdir: said(&options.workdir).or_else(|| said(&image.workdir)).unwrap_or_else(|| "/".to_owned()),
        stop_signal: said(&options.stop_signal)
            .or_else(|| said(&image.stop_signal))
            .unwrap_or_else(|| STOP_SIGNAL.to_owned()),
    }
}

/// Adds `NAME=value` lines. A name alone says nothing.
pub(super) fn add_env(env: &mut BTreeMap<String, String>, lines: &[String]) {
    for (name, value) in lines.iter().filter_map(|line| line.split_once('=')) {
        if !name.is_empty() {
            env.insert(name.to_owned(), value.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn entrypoint_and_command_merge_as_docker_does() {
        let image = ContainerConfig { entrypoint: words("/entry -x"), command: words("serve"), ..Default::default() };
        let merged = |entrypoint: Option<&str>, command: Option<&str>| {
            let options = ContainerOptions {
                entrypoint: entrypoint.map(words),
                command: command.map(words),
                ..Default::default()
            };
            merge(&image, &options).arguments.join(" ")
        };
        assert_eq!(merged(None, None), "/entry -x serve");
        assert_eq!(merged(None, Some("other")), "/entry -x other");
        assert_eq!(merged(Some("/bin/sh"), None), "/bin/sh", "the image's command belonged to its entrypoint");
        assert_eq!(merged(Some("/bin/sh"), Some("-c true")), "/bin/sh -c true");
        assert_eq!(merged(Some(""), Some("ls")), "ls", "an empty entrypoint removes the image's");
        assert_eq!(merged(Some(""), None), "");
    }

    #[test]
    fn the_users_words_win_and_defaults_fill_the_rest() {
        let image = ContainerConfig {
            env: words("A=1 B=2 PATH=/opt/bin =x C"),
            user: Some("web".into()),
            workdir: Some(String::new()),
            stop_signal: Some("SIGQUIT".into()),
            ..Default::default()
        };
        let options = ContainerOptions {
            env: BTreeMap::from([("B".into(), "3=4".into())]),
            user: Some("5".into()),
            ..Default::default()
        };
        let wanted = merge(&image, &options);
        let env: Vec<_> = wanted.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(env, ["A=1", "B=3=4", "PATH=/opt/bin"]);
        assert_eq!((wanted.user.as_str(), wanted.workdir.as_str(), wanted.stop_signal.as_str()), ("5", "/", "SIGQUIT"));
        let nothing = merge(&ContainerConfig::default(), &ContainerOptions::default());
        assert_eq!((nothing.env["PATH"].as_str(), nothing.stop_signal.as_str()), (DEFAULT_PATH, "SIGTERM"));
    }

    proptest! {
        #[test]
        fn what_the_user_says_is_never_lost(command in prop::collection::vec("[a-z]{0,4}", 0..4), env in prop::collection::btree_map("[A-Z]{1,4}", "[a-z=]{0,4}", 0..4)) {
            let image = ContainerConfig { entrypoint: words("/e"), command: words("c d"), env: words("A=1 PATH=/x"), ..Default::default() };
            let options = ContainerOptions { command: Some(command.clone()), env: env.clone(), ..Default::default() };
            let wanted = merge(&image, &options);
            prop_assert_eq!(&wanted.arguments[1..], &command[..]);
            for (name, value) in env {
                prop_assert_eq!(&wanted.env[&name], &value);
            }
        }
    }
}
