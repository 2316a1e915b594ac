//! Compose files as they are in the wild, and what becomes of them.

use super::{
    convert::{self, Body, PROJECT, SERVICE},
    interpolate::Variables,
    model::{Asked, Compose},
    service::Condition,
};
use std::path::Path;
use yun_types::{HealthProbe, Mount, RestartPolicy, Span};

const SHOP: &str = r#"
name: shop
x-common: &common
  restart: unless-stopped
  environment: { TZ: UTC }
services:
  web:
    <<: *common
    image: nginx:1.25
    command: nginx -g 'daemon off;'
    ports:
      - "8080:80"
      - "127.0.0.1:9000-9001:90-91/udp"
      - { target: 443, published: "8443" }
    environment:
      - MODE=${MODE:-live}
      - EMPTY
    networks: { back: { aliases: [www] } }
    volumes:
      - ./conf:/etc/nginx:ro
      - type: tmpfs
        target: /tmp
    depends_on:
      db: { condition: service_healthy }
      init: { condition: service_completed_successfully }
    storage_opt: { size: 10m }
    deploy:
      replicas: 2
      resources: { limits: { cpus: '0.50', memory: 64m } }
    labels: { tier: front }
    user: "1000"
    working_dir: /srv
    stop_grace_period: 1m30s
  db:
    image: postgres
    networks: [back]
    healthcheck:
      test: [CMD-SHELL, pg_isready -U $$USER]
      interval: 2s
      retries: 5
  init:
    image: postgres
    networks: [back]
    volumes:
      - data:/var/lib/data
      - /cache
      - { type: volume, source: data, target: /ro, read_only: true, volume: { nocopy: true } }
    entrypoint: ["sh", "-c"]
    command: ["true"]
  debug:
    image: busybox
    profiles: [debug]
networks:
  back:
volumes:
  data:
"#;

fn read(text: &str) -> anyhow::Result<Compose> {
    read_with(text, &Asked::default())
}

fn read_with(text: &str, asked: &Asked) -> anyhow::Result<Compose> {
    Compose::read("compose.yaml", text, Path::new("/srv/My Shop"), &Variables::default(), asked)
}

fn instance(compose: &Compose, key: &str) -> yun_types::InstanceSpec {
    match convert::service(compose, compose.service(key).unwrap(), "img").unwrap().body {
        Body::Instance(spec) => spec,
        Body::Group(group) => group.template.spec,
    }
}

#[test]
fn a_whole_file_becomes_instances_groups_networks_and_volumes() {
    let compose = read(SHOP).unwrap();
    assert_eq!(compose.warnings, [""; 0]);
    let order: Vec<&str> = compose.services.iter().map(|service| service.key.as_str()).collect();
    assert_eq!(order, ["db", "init", "web"], "in the order of what they need; debug is off");
    let planned = convert::service(&compose, compose.service("web").unwrap(), "nginx-1-25").unwrap();
    assert_eq!((planned.name.as_str(), planned.labels[SERVICE].as_str()), ("shop-web", "web"));
    assert_eq!((planned.labels[PROJECT].as_str(), planned.labels["tier"].as_str()), ("shop", "front"));
    let Body::Group(group) = planned.body else { panic!("two of it are a group") };
    assert_eq!(group.replicas, 2);
    let web = group.template.spec;
    assert_eq!(web.image, "nginx-1-25");
    assert_eq!(web.container.command.unwrap(), ["nginx", "-g", "daemon off;"]);
    assert_eq!(web.restart, RestartPolicy::Always);
    let ports: Vec<String> = web.publish.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["8080:80", "127.0.0.1:9000:90/udp", "127.0.0.1:9001:91/udp", "8443:443"]);
    // What a service says itself replaces what it merges; a name without a value anywhere is left out.
    assert_eq!(web.container.env.into_iter().collect::<Vec<_>>(), [("MODE".to_owned(), "live".to_owned())]);
    assert_eq!(planned.labels[yun_types::ALIASES], "web");
    let [back] = &web.networks[..] else { panic!("{:?}", web.networks) };
    assert_eq!((back.network.as_str(), back.aliases[0].as_str()), ("shop-back", "www"));
    assert!(web.container.mounts.contains(&Mount::Bind {
        source: "/srv/My Shop/conf".into(),
        target: "/etc/nginx".into(),
        read_only: true
    }));
    assert!(web.container.mounts.contains(&Mount::Tmpfs { target: "/tmp".into(), size: None }));
    assert_eq!((web.size.cpu.to_string().as_str(), web.size.memory.0, web.size.disk.0), ("0.5", 64 << 20, 10 << 20));
    assert_eq!((web.stop_timeout, web.container.workdir.as_deref()), (Some(90), Some("/srv")));
    let depends = &compose.service("web").unwrap().depends_on;
    assert_eq!((depends["db"].condition, depends["init"].condition), (Condition::Healthy, Condition::Completed));

    let db = instance(&compose, "db");
    assert_eq!(db.restart, RestartPolicy::Never);
    let init = instance(&compose, "init");
    let volumes: Vec<String> = init.volumes.iter().map(ToString::to_string).collect();
    assert_eq!(volumes, ["shop-data:/var/lib/data", "/cache", "shop-data:/ro:ro"]);
    assert!(init.volumes[2].no_copy && !init.volumes[0].no_copy);
    let health = db.container.health.unwrap();
    assert_eq!((health.interval, health.timeout, health.retries), (Span::seconds(2), Span::seconds(30), 5));
    let HealthProbe::Command { command } = health.probe else { panic!("{:?}", health.probe) };
    assert_eq!(command, ["/bin/sh", "-c", "pg_isready -U $USER"]);
}

#[test]
fn networks_and_volumes_are_the_projects_own_unless_they_are_external() {
    let text = "name: shop\nservices:\n  a: { image: x, networks: { front: { ipv4_address: 10.9.0.7 }, old: } }\n  b: { image: x }
networks:\n  front: { name: the-front, internal: true, ipam: { config: [{ subnet: 10.9.0.0/24 }] } }\n  old: { external: { name: Old_Net } }
volumes:\n  big: { driver: local, driver_opts: { size: 2g } }\n  theirs: { external: true }\n";
    let compose = read(text).unwrap();
    let (front, old) = (&compose.networks["front"], &compose.networks["old"]);
    assert_eq!((front.name.as_str(), front.internal, front.cidr.as_deref()), ("the-front", true, Some("10.9.0.0/24")));
    assert_eq!((old.name.as_str(), old.external), ("old-net", true));
    let a = instance(&compose, "a");
    assert_eq!((a.networks[0].address, a.networks[1].network.as_str()), (Some([10, 9, 0, 7].into()), "old-net"));
    assert_eq!(instance(&compose, "b").networks[0].network.as_str(), "shop-default");
    let (big, theirs) = (&compose.volumes["big"], &compose.volumes["theirs"]);
    assert_eq!((big.name.as_str(), big.size, big.external), ("shop-big", Some(yun_types::Bytes::gib(2)), false));
    assert_eq!((theirs.name.as_str(), theirs.external), ("theirs", true));
}

#[test]
fn names_profiles_and_images_are_found() {
    let nameless = SHOP.replace("name: shop\n", "");
    assert_eq!(read(&nameless).unwrap().name.as_str(), "my-shop", "that of the directory");
    let asked = Asked { profiles: vec!["debug".into()], name: Some("other".parse().unwrap()), ..Asked::default() };
    let compose = read_with(SHOP, &asked).unwrap();
    assert_eq!((compose.name.as_str(), compose.services.len()), ("other", 4));
    assert_eq!(instance(&compose, "debug").image, "img");
    let known = [("nginx-1-25", ()), ("busybox", ())].map(|(name, ())| (name.to_owned(), ())).into();
    for (reference, found) in [
        ("nginx:1.25", Some("nginx-1-25")),
        ("docker.io/library/nginx:1.25", Some("nginx-1-25")),
        ("busybox", Some("busybox")),
        ("busybox:latest", Some("busybox")),
        ("busybox:1.36", None),
    ] {
        assert_eq!(convert::image(reference, &known), found, "{reference}");
    }
}

#[test]
fn equal_services_are_left_alone_and_changed_ones_are_noticed() {
    let planned = |text: &str| {
        let compose = read(text).unwrap();
        convert::service(&compose, compose.service("db").unwrap(), "img").unwrap()
    };
    let before = planned(SHOP);
    assert!(convert::unchanged(&planned(SHOP), &before.labels));
    assert!(!convert::unchanged(&planned(&SHOP.replace("retries: 5", "retries: 6")), &before.labels));
}

#[test]
fn every_key_is_known_warned_about_or_refused_by_name_with_its_line() {
    let with =
        |line: &str| SHOP.replace("  db:\n    image: postgres\n", &format!("  db:\n    image: postgres\n    {line}\n"));
    for (line, wanted) in [
        ("build: .", "compose.yaml:36: services.db.build: build is not supported: build the image first"),
        ("extends: { service: web }", "extends is not supported: copy the other service's keys here"),
        ("network_mode: host", "network_mode is not supported: leave it out"),
        ("imgae: x", "compose.yaml:36: services.db.imgae: imgae is unknown; did you mean image?"),
        ("ports: ['80']", "port 80 names no port of the host: write 80:80"),
        ("ports: ['1-3:5-6']", "has 3 ports on one side and 2 on the other"),
        ("ports: ['x:80']", "\"x\" is no port"),
        ("restart: sometimes", "restart policy \"sometimes\" is unknown"),
        ("command: \"a 'b\"", "a quote without an end"),
        ("depends_on: [nobody]", "it depends on service nobody, which is not in the file"),
        ("depends_on: { init: { condition: nice } }", "condition nice is unknown: use service_started"),
        ("depends_on: [web]", "services depend on each other in a circle"),
        (
            "volumes: [dta:/data]",
            "compose.yaml:34: services.db: volume dta is used and not declared: add it under volumes:",
        ),
        ("volumes: [data:data]", "\"data\" is no path in the container: write it from the root"),
        ("volumes: ['data:/data:shared']", "the mode shared is not supported: use ro, rw or nocopy"),
        ("volumes: ['a:/b:c:d']", "is no volume: write it as in ./data:/var/lib/data"),
        ("volumes: [{ type: cluster, target: /x }]", "type cluster is not supported: use volume, bind or tmpfs"),
        ("volumes: [{ type: volume, source: data, target: /x, volume: { subpath: y } }]", "subpath is not supported"),
        (
            "volumes: [{ type: bind, source: ., target: /x, bind: { propagation: shared } }]",
            "propagation is not supported",
        ),
        ("secrets: [key]", "secret key is used and not declared"),
        ("mem_limit: lots", "\"lots\" is no size"),
        ("stop_grace_period: soon", "time \"soon\" is not understood"),
        ("environment: 5", "this is not a mapping"),
        ("tty: maybe", "\"maybe\" is neither true nor false"),
        ("env_file: none.env", "cannot read /srv/My Shop/none.env"),
        ("labels: { a: $}", "a $ that begins no variable"),
        ("user: ${WHO:?say who}", "variable WHO has no value: say who"),
    ] {
        let said = format!("{:#}", read(&with(line)).unwrap_err());
        assert!(said.contains(wanted), "{line}: {said}");
    }
    for (text, wanted) in [
        ("include: [other.yaml]\nservices: {}\n", "include is not supported: put the services into this file"),
        (
            "services:\n  a: { image: x }\nnetworks:\n  n: { driver: macvlan }\n",
            "compose.yaml:4: networks.n.driver: driver macvlan is not supported: leave it out",
        ),
        (
            "services:\n  a: { image: x }\nnetworks:\n  n: { ipam: { config: [{ subnet: 10.9.0.0/24, gateway: 10.9.0.9 }] } }\n",
            "gateway is not supported: leave it out: the gateway has the first address",
        ),
        ("services:\n  a: { image: x }\nnetworks:\n  n: { enable_ipv6: true }\n", "networks have IPv4 only"),
        ("services:\n  a: { image: x }\nnetworks:\n  n: { driver_opts: { o: 1 } }\n", "driver_opts.o is not supported"),
        ("services:\n  a: { image: x }\nnetworks:\n  n: { external: true, internal: true }\n", "internal is unknown"),
        (
            "services:\n  a: { image: x }\nvolumes:\n  v: { driver: nfs }\n",
            "driver nfs is not supported: leave it out: volumes are kept on the cloud's nodes",
        ),
        (
            "services:\n  a: { image: x }\nvolumes:\n  v: { driver_opts: { type: nfs } }\n",
            "driver_opts.type is not supported: the only one is size, as in size: 10g",
        ),
        ("services:\n  a: { image: x }\nvolumes:\n  v: { name: '9' }\n", "\"9\" makes no name"),
        ("services:\n  a: { image: x, networks: [front] }\n", "network front is used and not declared"),
        ("services: {}\nsevices: {}\n", "sevices is unknown; did you mean services?"),
        ("volumes: {}\n", "the file has no services"),
        ("- a\n", "this is no Compose file"),
        ("services:\n  a: { image: [ }\n", "compose.yaml:2:"),
        (
            "services:\n  a: { image: x }\nsecrets:\n  s: { environment: A }\n",
            "environment is not supported: write the content into a file",
        ),
    ] {
        let said = format!("{:#}", read(text).unwrap_err());
        assert!(said.contains(wanted), "{text}: {said}");
    }
    let warned = read(&with("logging: { driver: none }")).unwrap().warnings;
    assert_eq!(warned, ["compose.yaml:36: services.db.logging: logging has no effect here"]);
    let missing = read(&with("hostname: $NOBODY")).unwrap().warnings;
    assert!(
        missing.contains(&"compose.yaml: variable NOBODY has no value and is taken as empty".to_owned()),
        "{missing:?}"
    );
}
