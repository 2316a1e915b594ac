//! What the images of containers say about them, which Docker's clients expect to be merged in. Kept, because content does not change.

use super::super::cloud::Cloud;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use yun_types::{ContainerConfig, ContainerOptions, Instance};

/// What is known of contents, by their digest.
#[derive(Debug, Default)]
pub(crate) struct Origins(Mutex<HashMap<String, Arc<ContainerConfig>>>);

impl Origins {
    fn known(&self, instance: &Instance) -> Option<Arc<ContainerConfig>> {
        let Some(pin) = &instance.status.image else { return Some(Arc::default()) };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(pin.digest.hex()).cloned()
    }

    /// What the image of each of these says; nothing if it is gone.
    pub(super) async fn of(&self, cloud: &Cloud, instances: &[Instance]) -> Vec<Arc<ContainerConfig>> {
        if instances.iter().any(|instance| self.known(instance).is_none())
            && let Ok(images) = cloud.images().await
        {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // As large as the catalogue, and what has left it is asked for once more at worst.
            all.clear();
            for image in images {
                let config = image.status.facts.config.unwrap_or_default();
                all.insert(image.status.facts.digest.hex().to_owned(), Arc::new(config));
            }
        }
        instances.iter().map(|instance| self.known(instance).unwrap_or_default()).collect()
    }
}

/// What a container runs, as its node merges it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) entrypoint: Vec<String>,
    pub(super) command: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) user: String,
    pub(super) workdir: String,
    pub(super) stop_signal: String,
}

/// The user's words over the image's.
pub(super) fn merged(image: &ContainerConfig, options: &ContainerOptions) -> Merged {
    let (entrypoint, inherited) = match &options.entrypoint {
        // The image's command was meant for its own entrypoint.
        Some(own) => (own.clone(), Vec::new()),
        None => (image.entrypoint.clone(), image.command.clone()),
    };
    let named = |line: &&String| line.split_once('=').is_some_and(|(name, _)| !options.env.contains_key(name));
    let own = options.env.iter().map(|(name, value)| format!("{name}={value}"));
    let said = |own: &Option<String>, image: &Option<String>| {
        [own, image].into_iter().flatten().find(|text| !text.is_empty()).cloned().unwrap_or_default()
    };
    Merged {
        entrypoint,
        command: options.command.clone().unwrap_or(inherited),
        env: own.chain(image.env.iter().filter(named).cloned()).collect(),
        user: said(&options.user, &image.user),
        workdir: said(&options.workdir, &image.workdir),
        stop_signal: said(&options.stop_signal, &image.stop_signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_words_go_over_the_images() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let image = ContainerConfig {
            entrypoint: words("/entry"),
            command: words("serve"),
            env: words("A=1 B=2"),
            user: Some("web".into()),
            workdir: Some("/srv".into()),
            ..ContainerConfig::default()
        };
        let mut options = ContainerOptions { user: Some("root".into()), ..ContainerOptions::default() };
        options.env.insert("B".into(), "3".into());
        let all = merged(&image, &options);
        assert_eq!((all.entrypoint, all.command, all.env), (words("/entry"), words("serve"), words("B=3 A=1")));
        assert_eq!((all.user.as_str(), all.workdir.as_str(), all.stop_signal.as_str()), ("root", "/srv", ""));
        options.entrypoint = Some(words("/bin/sh"));
        assert_eq!(merged(&image, &options).command, [""; 0]);
    }
}
