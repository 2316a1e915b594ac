//! Published ports: two instances cannot answer on the same port of a host. An instance that was told to stop gives its ports back.

use yun_types::{Instance, Invalid, Power, PublishedPort};

/// A port that somebody else has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortTaken<'a> {
    /// The port that was asked for.
    pub port: PublishedPort,
    /// Who has it.
    pub holder: &'a Instance,
}

/// The first of `asked` that one of `others` has.
pub fn taken<'a>(asked: &[PublishedPort], others: impl IntoIterator<Item = &'a Instance>) -> Option<PortTaken<'a>> {
    if asked.is_empty() {
        return None;
    }
    others.into_iter().filter(|other| !matches!(other.spec.power, Power::Stopped | Power::Hibernated)).find_map(
        |holder| {
            let port = asked.iter().find(|port| holder.spec.publish.iter().any(|held| held.conflicts(port)))?;
            Some(PortTaken { port: *port, holder })
        },
    )
}

/// Refuses a list that asks for one port of the host twice.
pub fn check_list(ports: &[PublishedPort]) -> Result<(), Invalid> {
    for (at, port) in ports.iter().enumerate() {
        if let Some(twin) = ports[at + 1..].iter().find(|other| other.conflicts(port)) {
            return Err(Invalid::new(format!(
                "ports {port} and {twin} both ask for port {} of the host; choose another for one of them",
                port.host
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn ports(texts: &[&str]) -> Vec<PublishedPort> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn the_holder_of_a_port_is_found() {
        let mut web = samples::instance("web");
        web.spec.publish = ports(&["8080:80", "53:53/udp"]);
        let mut db = samples::instance("db");
        db.spec.publish = ports(&["127.0.0.1:5432:5432"]);
        let all = [web.clone(), db];
        let found = taken(&ports(&["9090:90", "127.0.0.1:8080:81"]), &all).unwrap();
        assert_eq!(
            (found.holder.metadata.name.as_str(), found.port.to_string().as_str()),
            ("web", "127.0.0.1:8080:81")
        );
        assert!(taken(&ports(&["127.0.0.2:5432:5432", "53:53"]), &all).is_none());
        assert!(taken(&[], &all).is_none());
        web.spec.power = Power::Stopped;
        assert!(taken(&ports(&["8080:80"]), [&web]).is_none());
    }

    #[test]
    fn one_list_may_not_ask_twice() {
        assert!(check_list(&ports(&["80:80", "81:80", "80:80/udp"])).is_ok());
        let error = check_list(&ports(&["80:80", "127.0.0.1:80:81"])).unwrap_err().to_string();
        assert!(error.contains("80:80 and 127.0.0.1:80:81") && error.contains("choose another"), "{error}");
    }
}
