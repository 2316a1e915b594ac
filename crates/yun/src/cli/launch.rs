//! `yun launch`: from flags to an instance that runs.

use anyhow::{Context as _, Result, bail};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};
use yun_api::cloud::InstanceCreate;
use yun_types::{
    ContainerOptions, Instance, InstanceKind, InstanceSpec, IoLimits, Name, Power, Reference, RestartPolicy, Security,
    Size, Stdin, VmOptions,
};

use super::{
    Code,
    args::{ContainerArgs, Format, LaunchArgs, VmArgs},
    attach,
    connect::{Cloud, Explained},
    container,
    follow::follow,
    keys, output, snapshot, words,
};

/// Creates and starts an instance.
pub(crate) async fn launch(cloud: &Cloud, args: LaunchArgs) -> Result<Code> {
    let begun = Instant::now();
    let (image, name) = what_and_who(cloud, &args).await?;
    // Keys go only to VMs.
    let is_vm = makes_vms(cloud, &image).await;
    let vm = vm_options(&args.vm, is_vm).await?;
    let limit = Duration::from_secs(args.wait);
    let detach = args.detach;
    let attached = args.container.interactive && !detach;
    if args.container.interactive && is_vm {
        bail!("image {image} makes VMs, which have no standard input: leave -i out, and use yun console or yun ssh");
    }
    if attached && args.container.tty && !std::io::stdin().is_terminal() {
        bail!("standard input is not a terminal: leave -t out, or run this in a terminal");
    }
    // What somebody is attached to is not started again behind their back.
    let restart = if attached { RestartPolicy::Never } else { RestartPolicy::default() };
    let power = if attached { Power::Stopped } else { Power::Running };
    let mut container = container_options(args.container)?;
    if !detach && container.stdin == Stdin::Open && !container.tty {
        container.stdin = Stdin::Once;
    }
    let body = InstanceCreate {
        name: name.clone(),
        labels: words::labels(&args.label)?,
        spec: InstanceSpec {
            networks: args.plug.networks()?,
            volumes: args.plug.volume,
            size: args.size.unwrap_or_default(),
            power,
            restart: args.restart.unwrap_or(restart),
            publish: args.publish,
            node: args.node,
            template: args.template,
            container,
            vm,
            ..of_image(&image)
        },
    };
    // A key of our own makes it safe for the HTTP client to send the request again after a broken connection.
    let key = format!("launch-{}", uuid::Uuid::new_v4());
    let request = cloud.client.instance_create().project(cloud.project.clone()).idempotency_key(key).body(body);
    let operation = request.send().await.explained()?;
    if detach {
        output::print_line(&operation.metadata.id.to_string())?;
        return Ok(0);
    }
    follow(cloud, operation, limit).await?;
    let instance =
        cloud.client.instance_get().project(cloud.project.clone()).instance(name).send().await.explained()?;
    if attached {
        return attach::first(cloud, &instance, limit).await;
    }
    report(cloud, &instance, begun.elapsed())?;
    Ok(0)
}

/// Whether the image makes VMs. One that cannot be found is the server's to refuse, with the nearest names.
pub(super) async fn makes_vms(cloud: &Cloud, image: &str) -> bool {
    let image = cloud.client.image_get().project(cloud.project.clone()).image(image).send().await.ok();
    image.is_some_and(|i| i.status.facts.kind == InstanceKind::Vm)
}

/// What is wanted of an instance of which nothing but its image is said.
pub(super) fn of_image(image: &str) -> InstanceSpec {
    InstanceSpec {
        networks: vec![],
        volumes: vec![],
        kind: None,
        image: image.to_owned(),
        size: Size::default(),
        power: Power::Running,
        restart: RestartPolicy::default(),
        restart_count: 0,
        publish: Vec::new(),
        node: None,
        stop_timeout: None,
        template: None,
        container: ContainerOptions::default(),
        vm: VmOptions::default(),
    }
}

/// The image and the name. A template brings its image, so that the first word is the name then.
async fn what_and_who(cloud: &Cloud, args: &LaunchArgs) -> Result<(String, Name)> {
    let Some(template) = &args.template else {
        let image = args.image.clone().unwrap_or_default();
        let pulled = image.parse::<Reference>().ok().filter(|_| Reference::is_meant(&image));
        let stem =
            pulled.and_then(|reference| reference.suggested_name()).map_or(image.clone(), |name| name.to_string());
        let name = args.name.clone().map_or_else(|| invented(&stem), Ok)?;
        super::image::pull::if_absent(cloud, &image).await?;
        return Ok((image, name));
    };
    let source = snapshot::source(cloud, template).await?;
    match (&args.image, &args.name) {
        (Some(image), Some(name)) => Ok((image.clone(), name.clone())),
        (Some(name), None) => Ok((source.spec.image, name.parse()?)),
        (None, name) => {
            let name = name.clone().map_or_else(|| invented(template.snapshot.as_str()), Ok)?;
            Ok((source.spec.image, name))
        }
    }
}

pub(super) fn report(cloud: &Cloud, instance: &Instance, took: Duration) -> Result<()> {
    let name = &instance.metadata.name;
    if !matches!(cloud.output, Format::Table | Format::Wide) {
        return output::object(instance, cloud.output, name.as_str());
    }
    if cloud.quiet {
        return output::print_line(name.as_str());
    }
    let kind = instance.spec.kind.map_or_else(String::new, |k| k.to_string());
    let address = instance.status.address.map(|a| format!(" at {a}")).unwrap_or_default();
    let ports: Vec<String> = instance
        .spec
        .publish
        .iter()
        .map(|p| format!(", port {} of the host leads to its {}", p.host, p.guest))
        .collect();
    output::print_line(&format!(
        "{kind} {name} {}{address}{} ({:.2}s)",
        instance.status.state,
        ports.concat(),
        took.as_secs_f64()
    ))?;
    match instance.spec.kind {
        Some(InstanceKind::Vm) => {
            if instance.status.accel.as_deref() == Some("tcg") {
                eprintln!(
                    "this machine cannot run VMs by its processor, so {name} is emulated and slow (yun node show says why)"
                );
            }
            eprintln!("log in with: yun ssh {name}");
        }
        _ => eprintln!("look inside with: yun exec -it {name} -- sh"),
    }
    Ok(())
}

/// A name that says what it is: the image's and four random letters.
fn invented(image: &str) -> Result<Name> {
    let stem: String =
        image.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-').take(40).collect();
    let stem = stem.trim_matches('-').trim_start_matches(|c: char| c.is_ascii_digit());
    let stem = if stem.is_empty() { "instance" } else { stem };
    let letters: String = (0..4).map(|_| char::from(b'a' + rand::random_range(0..26u8))).collect();
    Ok(format!("{stem}-{letters}").replace("--", "-").parse()?)
}

pub(super) async fn vm_options(args: &VmArgs, is_vm: bool) -> Result<VmOptions> {
    let user_data = match &args.user_data {
        Some(file) => Some(
            std::fs::read_to_string(file).with_context(|| format!("cannot read the user data {}", file.display()))?,
        ),
        None => None,
    };
    let keys = is_vm || !args.ssh_key.is_empty();
    let ssh_keys = if keys { keys::authorized(&args.ssh_key, &keys::directory()).await? } else { Vec::new() };
    Ok(VmOptions { ssh_keys, user_data, boot_timeout: args.boot_timeout })
}

pub(super) fn container_options(args: ContainerArgs) -> Result<ContainerOptions> {
    let mounts = args
        .mount
        .iter()
        .map(|m| words::bind(m))
        .chain(args.tmpfs.iter().map(|t| words::tmpfs(t)))
        .collect::<Result<_>>()?;
    Ok(ContainerOptions {
        entrypoint: args.entrypoint.map(|e| vec![e]),
        command: (!args.command.is_empty()).then_some(args.command),
        env: words::environment(&args.env, &args.env_file)?,
        user: args.user,
        workdir: args.workdir,
        stop_signal: args.stop_signal,
        pids: args.pids,
        tty: args.tty,
        stdin: if args.interactive { Stdin::Open } else { Stdin::Closed },
        mounts,
        system: args.isolation.system,
        health: container::health(&args.health, None)?,
        security: container::security(&args.isolation, Security::default())?,
        io: container::io(&args.isolation, IoLimits::default()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invented_names_are_names_whatever_the_image_is_called() {
        for image in ["small", "debian-12", "sha256:0123", "9front", "--", "Ä", &"x".repeat(200)] {
            invented(image).unwrap();
        }
    }
}
