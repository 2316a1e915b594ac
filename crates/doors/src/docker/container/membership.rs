//! From Docker's words for the networks and volumes of a container to the cloud's, and back. Purely.

use super::{
    super::{
        fault::{Answer, Fault},
        names,
    },
    host_config::{Named, is_empty},
    request::{Endpoint, Request},
};
use serde_json::Value;
use yun_types::{Name, NetworkMembership, VolumeMount};

/// The network that every project has.
pub(crate) const USUAL: &str = "default";

/// Whether a word means the project's own network.
pub(crate) fn is_usual(text: &str) -> bool {
    matches!(text, "" | "default" | "bridge")
}

/// The networks that a container's request names, the one of its mode first.
pub(super) fn named(request: &Request) -> Answer<Vec<String>> {
    let mode = request.host_config.network_mode.as_str();
    let refused =
        |mode: &str, instead: &str| Err(Fault::bad(format!("--network {mode} is not supported by yun: {instead}")));
    match mode {
        "host" => return refused(mode, "publish ports with -p; containers share no network with the host"),
        "none" => {
            return refused(
                mode,
                "make a network without a way out, as in docker network create --internal quiet, and use --network quiet",
            );
        }
        other if other.starts_with("container:") => return refused(mode, "let both join one network and use names"),
        _ => {}
    }
    let endpoints = &request.networking_config.endpoints_config;
    let first = (!is_usual(mode)).then_some(mode);
    let others = endpoints.keys().map(String::as_str).filter(|name| Some(*name) != first);
    Ok(first.into_iter().chain(others).map(str::to_owned).collect())
}

/// Which networks a container is in: none if only the project's own. `known` are the cloud's names of those that are named. With what
/// people should know.
pub(super) fn networks(request: &Request, known: &[(String, Name)]) -> Answer<(Vec<NetworkMembership>, Vec<String>)> {
    let endpoints = &request.networking_config.endpoints_config;
    let (mut all, mut warnings): (Vec<NetworkMembership>, _) = (Vec::new(), Vec::new());
    for (text, network) in known {
        // Under its id or its name: both may be said.
        let endpoint = endpoints.get(text).cloned().flatten().unwrap_or_default();
        let (member, unheard) = member(network.clone(), &endpoint)?;
        warnings.extend(unheard.iter().map(|alias| {
            format!("the alias {alias} is no name in DNS and is left out: use letters, digits and hyphens")
        }));
        match all.iter_mut().find(|other| other.network == member.network) {
            Some(same) => {
                same.aliases.extend(member.aliases);
                same.address = same.address.or(member.address);
            }
            None => all.push(member),
        }
    }
    // The project's own, with nothing special about it, goes without saying.
    if let [only] = &all[..]
        && USUAL.parse().is_ok_and(|usual| *only == NetworkMembership::of(usual))
    {
        all.clear();
    }
    Ok((all, warnings))
}

/// How a container is in a network, and the aliases that no DNS knows. Those that are ids are of no use to anybody, and not told.
pub(crate) fn member(network: Name, endpoint: &Endpoint) -> Answer<(NetworkMembership, Vec<String>)> {
    for (field, flag) in [("MacAddress", "--mac-address"), ("Links", "--link"), ("DriverOpts", "--driver-opt")] {
        if endpoint.rest.get(field).is_some_and(|value| !is_empty(value)) {
            return Err(Fault::bad(format!("{flag} is not supported by yun: leave it out")));
        }
    }
    if !endpoint.ipam.address6.is_empty() {
        return Err(Fault::bad("--ip6 is not supported by yun: networks have IPv4 only; leave it out"));
    }
    let address = match endpoint.ipam.address.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| Fault::bad(format!("invalid IPv4 address: {text}")))?),
    };
    let (mut aliases, mut unheard) = (Vec::new(), Vec::new());
    for alias in &endpoint.aliases {
        match alias.parse::<Name>() {
            Ok(name) if !aliases.contains(&name) => aliases.push(name),
            Ok(_) => {}
            Err(_) if names::is_prefix(alias) && alias.len() >= 12 => {}
            Err(_) => unheard.push(alias.clone()),
        }
    }
    Ok((NetworkMembership { address, aliases, ..NetworkMembership::of(network) }, unheard))
}

/// The volumes of a container. Those without a name live as long as it does.
pub(super) fn volumes(named: &[Named]) -> Vec<VolumeMount> {
    let one = |named: &Named| VolumeMount {
        volume: Some(&named.volume).filter(|name| !name.is_empty()).map(|name| names::cloud_name(name).0),
        target: Some(named.target.clone()),
        read_only: named.read_only,
        no_copy: named.no_copy,
    };
    named.iter().map(one).collect()
}

/// The name that a container's user wrote for a network or a volume of the cloud, as far as `request` tells.
pub(super) fn written(request: &Value, name: &Name) -> String {
    let config = &request["HostConfig"];
    let networks =
        request["NetworkingConfig"]["EndpointsConfig"].as_object().into_iter().flatten().map(|(k, _)| k.as_str());
    let binds = config["Binds"].as_array().into_iter().flatten().filter_map(|b| b.as_str()?.split(':').next());
    let mounts = config["Mounts"].as_array().into_iter().flatten().filter_map(|m| m["Source"].as_str());
    let mode = config["NetworkMode"].as_str();
    let mut all = networks.chain(binds).chain(mounts).chain(mode);
    all.find(|text| names::cloud_name(text).0 == *name).map_or_else(|| name.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(value: Value) -> Request {
        serde_json::from_value(value).unwrap()
    }

    fn known(names: &[String]) -> Vec<(String, Name)> {
        let name = |text: &String| if is_usual(text) { USUAL.parse().unwrap() } else { names::cloud_name(text).0 };
        names.iter().map(|text| (text.clone(), name(text))).collect()
    }

    #[test]
    fn the_network_of_the_mode_comes_first_and_aliases_are_kept() {
        let request = request(json!({
            "HostConfig": { "NetworkMode": "shop_default" },
            "NetworkingConfig": { "EndpointsConfig": {
                "back": null,
                "shop_default": { "Aliases": ["web", "my_web", "0123456789ab"], "IPAMConfig": { "IPv4Address": "10.1.2.3" } },
            } },
        }));
        let (all, warnings) = networks(&request, &known(&named(&request).unwrap())).unwrap();
        assert!(all[0].network.as_str().starts_with("shop-default-") && all[1].network.as_str() == "back");
        assert_eq!((all[0].aliases.len(), all[0].address), (1, Some([10, 1, 2, 3].into())));
        assert!(warnings.len() == 1 && warnings[0].contains("my_web"), "{warnings:?}");
    }

    #[test]
    fn the_projects_own_network_goes_without_saying_and_the_hosts_is_refused() {
        for mode in ["", "default", "bridge"] {
            let request = request(json!({
                "HostConfig": { "NetworkMode": mode },
                "NetworkingConfig": { "EndpointsConfig": { "bridge": { "MacAddress": "", "DriverOpts": null } } },
            }));
            assert_eq!(networks(&request, &known(&named(&request).unwrap())).unwrap(), (vec![], vec![]));
        }
        for mode in ["host", "none", "container:web"] {
            let fault = named(&request(json!({ "HostConfig": { "NetworkMode": mode } }))).unwrap_err();
            assert!(fault.message.contains("is not supported by yun: "), "{fault}");
        }
        for (endpoint, said) in [
            (json!({ "MacAddress": "02:00:00:00:00:01" }), "--mac-address"),
            (json!({ "Links": ["db"] }), "--link"),
            (json!({ "IPAMConfig": { "IPv6Address": "fd00::1" } }), "--ip6"),
            (json!({ "IPAMConfig": { "IPv4Address": "1.2.3" } }), "invalid IPv4 address"),
        ] {
            let endpoint = serde_json::from_value(endpoint).unwrap();
            assert!(member("back".parse().unwrap(), &endpoint).unwrap_err().message.contains(said), "{said}");
        }
    }

    #[test]
    fn names_are_shown_as_they_were_written() {
        let request = json!({ "HostConfig": { "Binds": ["shop_data:/data"], "NetworkMode": "shop_default" } });
        let name = |text: &str| names::cloud_name(text).0;
        assert_eq!(written(&request, &name("shop_data")), "shop_data");
        assert_eq!(written(&request, &name("shop_default")), "shop_default");
        assert_eq!(written(&request, &name("other")), "other");
    }
}
