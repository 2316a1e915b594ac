//! The volume that cloud-init reads (data source NoCloud): a small FAT file system labelled `cidata` with `meta-data`, `user-data`,
//! `vendor-data` and `network-config`. <https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html>
//!
//! The guest's address is written down as static, not as "ask DHCP", although the node answers DHCP too: the DHCP server lives in a yun
//! process, and a guest that starts, restarts or renews a lease must not need one. Equal inputs give equal bytes, so that a file that
//! needs no change is not written.

use fatfs::{Date, DateTime, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};
use std::{
    fmt::Write as _,
    io::{self, Cursor, Write as _},
};
use yun_drivers::{Attachment, DriverError, Result};
use yun_types::DesiredInstance;

const LABEL: [u8; 11] = *b"cidata     ";
const LEAST: usize = 1 << 20;

/// Defaults that the user's own data override. Keys are the only way in, and `root` may use them: `yun ssh` does.
const VENDOR: &str = "#cloud-config\ndisable_root: false\nssh_pwauth: false\n";

/// Builds the volume.
#[cfg(test)]
pub(super) fn volume(instance: &DesiredInstance, network: Option<&Attachment>) -> Result<Vec<u8>> {
    volume_with(instance, network, &[])
}

/// The volume of a VM with more interfaces than the first.
pub(super) fn volume_with(
    instance: &DesiredInstance,
    network: Option<&Attachment>,
    more: &[Attachment],
) -> Result<Vec<u8>> {
    for (position, key) in instance.spec.vm.ssh_keys.iter().enumerate() {
        check_key(&format!("SSH key {} of VM {}", position + 1, instance.name), key)?;
    }
    let mut files = vec![
        ("meta-data", meta(instance)),
        ("user-data", instance.spec.vm.user_data.clone().unwrap_or_else(|| default_user(instance))),
        ("vendor-data", VENDOR.to_owned()),
    ];
    if let Some(network) = network {
        let mut config = network_config(network, &format!("{}.yun", instance.project));
        more.iter().for_each(|attachment| config.push_str(&another(attachment)));
        files.push(("network-config", config));
    }
    write_volume(&files).map_err(|e| DriverError::io(format!("build the cloud-init volume of VM {}", instance.name), e))
}

fn write_volume(files: &[(&str, String)]) -> io::Result<Vec<u8>> {
    let content: usize = files.iter().map(|(_, text)| text.len()).sum();
    // Room for the tables and for what each file leaves unused in its last cluster.
    let size = (content + (256 << 10)).next_multiple_of(LEAST);
    let mut bytes = vec![0; size];
    fatfs::format_volume(Cursor::new(&mut bytes[..]), FormatVolumeOptions::new().volume_label(LABEL))?;
    {
        let system = FileSystem::new(Cursor::new(&mut bytes[..]), FsOptions::new().time_provider(&NO_TIME))?;
        for (name, text) in files {
            system.root_dir().create_file(name)?.write_all(text.as_bytes())?;
        }
        system.unmount()?;
    }
    Ok(bytes)
}

/// The time of every file: the clock would make equal volumes differ.
#[derive(Debug)]
struct NoTime;

static NO_TIME: NoTime = NoTime;

impl TimeProvider for NoTime {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }
    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

fn meta(instance: &DesiredInstance) -> String {
    let mut text = format!("instance-id: {}\nlocal-hostname: {}\n", instance.id, instance.name);
    list_keys(&mut text, "public-keys", &instance.spec.vm.ssh_keys);
    text
}

/// For users who bring no data of their own.
fn default_user(instance: &DesiredInstance) -> String {
    let mut text = format!("#cloud-config\nhostname: {}\n", instance.name);
    list_keys(&mut text, "ssh_authorized_keys", &instance.spec.vm.ssh_keys);
    text
}

fn list_keys(text: &mut String, field: &str, keys: &[String]) {
    if keys.is_empty() {
        return;
    }
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{field}:");
    for key in keys {
        let _ = writeln!(text, "  - {}", scalar(key.trim()));
    }
}

/// A YAML scalar: plain where that is safe, because small guests read it with a few lines of shell.
fn scalar(text: &str) -> String {
    let first_is_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if first_is_plain
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.ends_with(':')
        && !text.chars().any(char::is_control)
    {
        return text.to_owned();
    }
    // JSON strings are YAML strings.
    serde_json::Value::from(text).to_string()
}

/// Version 2, one field a line. The interface is found by its hardware address, whatever the kernel calls it, and is called eth0 then.
fn network_config(network: &Attachment, search: &str) -> String {
    let Attachment { nic, cidr, gateway, mtu, .. } = network;
    let mac = nic.mac.to_ascii_lowercase();
    let address = nic.address;
    let prefix = cidr.prefix_len();
    format!(
        "version: 2
ethernets:
  eth0:
    match:
      macaddress: \"{mac}\"
    set-name: eth0
    dhcp4: false
    addresses:
      - {address}/{prefix}
    routes:
      - to: 0.0.0.0/0
        via: {gateway}
    nameservers:
      addresses:
        - {gateway}
      search:
        - {search}
    mtu: {mtu}
"
    )
}

/// An interface after the first: an address, and no way out.
fn another(network: &Attachment) -> String {
    let Attachment { nic, cidr, mtu, .. } = network;
    let (mac, index, address, prefix) = (nic.mac.to_ascii_lowercase(), nic.index, nic.address, cidr.prefix_len());
    format!(
        "  eth{index}:
    match:
      macaddress: \"{mac}\"
    set-name: eth{index}
    dhcp4: false
    addresses:
      - {address}/{prefix}
    mtu: {mtu}
"
    )
}

/// Refuses what is certainly no public key, and above all private ones. Kinds that are not known yet are left to the guest.
fn check_key(what: &str, key: &str) -> Result<()> {
    let right = "give the one line of a .pub file, as in ssh-ed25519 AAAA… you@host";
    let refuse = |why: &str| Err(DriverError::bad_request("BadSshKey", format!("{what} {why}: {right}")));
    let key = key.trim();
    if key.contains("PRIVATE KEY") {
        return refuse("is a private key, which must never leave your machine");
    }
    if key.lines().count() != 1 {
        return refuse(if key.is_empty() { "is empty" } else { "has several lines" });
    }
    // Options may stand before the kind, so it is enough that the key's body is somewhere.
    if !key.split_ascii_whitespace().any(|word| word.starts_with("AAAA")) {
        return refuse("has no key body");
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Read;
    use yun_drivers::Port;
    use yun_types::{Digest, Generation, ImageId, ImagePin, InstanceId, InstanceKind, NetworkId, Nic};

    /// An instance as tests want it.
    pub(in crate::vm) fn instance(keys: &[&str], user_data: Option<&str>) -> DesiredInstance {
        let spec = serde_json::json!({"image": "small", "vm": {"ssh_keys": keys, "user_data": user_data}});
        let digest: Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        DesiredInstance {
            more_nics: vec![],
            volumes: vec![],
            id: InstanceId(uuid::Uuid::from_u128(7)),
            name: "web".parse().unwrap(),
            project: "default".parse().unwrap(),
            kind: InstanceKind::Vm,
            generation: Generation(1),
            fence: 1,
            spec: serde_json::from_value(spec).unwrap(),
            image: ImagePin { id: ImageId(uuid::Uuid::from_u128(8)), name: "small".into(), digest },
            nic: nic(),
            origin: Default::default(),
            deleting: false,
            restarts: 0,
            restart_count: 0,
            restores: 0,
        }
    }

    fn nic() -> Nic {
        let network = NetworkId(uuid::Uuid::from_u128(9));
        Nic::new(network, "10.77.3.5".parse().unwrap(), "02:AA:00:00:00:05")
    }

    /// A connection as tests want it.
    pub(in crate::vm) fn attachment() -> Attachment {
        Attachment {
            instance: InstanceId(uuid::Uuid::from_u128(7)),
            network: nic().network,
            nic: nic(),
            cidr: "10.77.3.0/24".parse().unwrap(),
            gateway: "10.77.3.1".parse().unwrap(),
            mtu: 1450,
            port: Port::Tap { interface: "yt00000007".into() },
        }
    }

    fn read(volume: &[u8], name: &str) -> Option<String> {
        let mut bytes = volume.to_vec();
        let system = FileSystem::new(Cursor::new(&mut bytes[..]), FsOptions::new()).unwrap();
        assert_eq!(system.read_volume_label_from_root_dir().unwrap().as_deref(), Some("cidata"));
        let mut text = String::new();
        system.root_dir().open_file(name).ok()?.read_to_string(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn a_guest_finds_its_identity_its_keys_and_its_address() {
        let instance = instance(&["ssh-ed25519 AAAAC3 me@home", "ssh-rsa AAAAB3 odd: comment # here"], None);
        let volume = volume(&instance, Some(&attachment())).unwrap();
        expect_test::expect![[r#"
            instance-id: 00000000-0000-0000-0000-000000000007
            local-hostname: web
            public-keys:
              - ssh-ed25519 AAAAC3 me@home
              - "ssh-rsa AAAAB3 odd: comment # here"
        "#]]
        .assert_eq(&read(&volume, "meta-data").unwrap());
        expect_test::expect![[r#"
            #cloud-config
            hostname: web
            ssh_authorized_keys:
              - ssh-ed25519 AAAAC3 me@home
              - "ssh-rsa AAAAB3 odd: comment # here"
        "#]]
        .assert_eq(&read(&volume, "user-data").unwrap());
        expect_test::expect![[r#"
            version: 2
            ethernets:
              eth0:
                match:
                  macaddress: "02:aa:00:00:00:05"
                set-name: eth0
                dhcp4: false
                addresses:
                  - 10.77.3.5/24
                routes:
                  - to: 0.0.0.0/0
                    via: 10.77.3.1
                nameservers:
                  addresses:
                    - 10.77.3.1
                  search:
                    - default.yun
                mtu: 1450
        "#]]
        .assert_eq(&read(&volume, "network-config").unwrap());
    }

    #[test]
    fn user_data_arrive_unchanged_and_the_same_input_gives_the_same_bytes() {
        let script = format!("#!/bin/sh\necho '{}'\r\n", "ü".repeat(700_000));
        let instance = instance(&[], Some(&script));
        let first = volume(&instance, None).unwrap();
        assert_eq!(read(&first, "user-data").unwrap(), script);
        assert_eq!(read(&first, "network-config"), None);
        assert_eq!(first, volume(&instance, None).unwrap());
    }

    #[test]
    fn private_keys_and_rubbish_are_refused_by_number() {
        for (key, why) in [
            ("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"),
            ("", "is empty"),
            ("ssh-rsa AAAA\nssh-rsa AAAA", "several lines"),
            ("hello", "no key body"),
        ] {
            let error = volume(&instance(&["ssh-rsa AAAAB3", key], None), None).unwrap_err();
            assert!(error.message.contains("SSH key 2 of VM web") && error.message.contains(why), "{key}: {error}");
        }
        check_key("key", "command=\"/bin/true\" ssh-new-kind AAAA").unwrap();
    }
}
