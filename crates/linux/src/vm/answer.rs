//! Whether a guest answers on its network. A connection that is accepted or refused proves a running guest: both answers come from its
//! kernel, whatever programs it has.

use super::files::Connection;
use crate::host::Host;
use futures::{StreamExt, stream::FuturesUnordered};
use rtnetlink::packet_route::neighbour::NeighbourState;
use std::{io, net::Ipv4Addr, time::Duration};
use tokio::{net::TcpStream, time::timeout};

/// SSH: the port that most guests open, though a refusal answers as well.
const PORT: u16 = 22;
/// How often a guest is asked.
const STEP: Duration = Duration::from_millis(50);
/// How long one question waits. The questions overlap, so a guest that is slow to answer is not asked in vain.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the kernel is told where the guest is.
const REMIND: u32 = 40;

/// Resolves when the guest answers.
pub(super) async fn wait(host: &Host, network: &Connection) {
    let mut questions = FuturesUnordered::new();
    let mut clock = tokio::time::interval(STEP);
    let mut round = 0;
    loop {
        tokio::select! {
            _ = clock.tick() => {
                if round % REMIND == 0 {
                    introduce(host, network).await;
                }
                round += 1;
                questions.push(timeout(PATIENCE, answers(network.address)));
            }
            Some(answer) = questions.next() => if matches!(answer, Ok(true)) { return },
        }
    }
}

async fn answers(address: Ipv4Addr) -> bool {
    match TcpStream::connect((address, PORT)).await {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    }
}

/// Tells the kernel the guest's hardware address, which we know. Otherwise it asks the guest once a second, and a guest that came up just
/// after a question seems dead until the next. The entry ages like any other; if it cannot be made, it only takes longer.
async fn introduce(host: &Host, network: &Connection) {
    if let Err(error) = add_neighbour(host, network).await {
        tracing::debug!(address = %network.address, %error, "cannot tell the kernel where a guest is");
    }
}

async fn add_neighbour(host: &Host, network: &Connection) -> io::Result<()> {
    let mac =
        parse_mac(&network.mac).ok_or_else(|| io::Error::other(format!("{} is no hardware address", network.mac)))?;
    let index = interface(&host.bridge(network.network)).or_else(|_| interface(&network.tap))?;
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
    let entry = handle.neighbours().add(index, network.address.into()).link_layer_address(&mac);
    entry.state(NeighbourState::Reachable).replace().execute().await.map_err(io::Error::other)?;
    drop(connection);
    Ok(())
}

/// The number of an interface.
fn interface(name: &str) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))?;
    text.trim().parse().map_err(io::Error::other)
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect::<Option<_>>()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_open_port_and_a_refusal_are_answers() {
        // Whatever listens on this machine's port 22, its kernel answers at once.
        assert!(answers(Ipv4Addr::LOCALHOST).await);
    }

    #[test]
    fn hardware_addresses_are_six_bytes() {
        assert_eq!(parse_mac("02:aa:00:00:00:ff"), Some([2, 0xaa, 0, 0, 0, 0xff]));
        assert_eq!(parse_mac("02:aa:00:00:00"), None);
        assert_eq!(parse_mac("02:aa:00:00:00:gg"), None);
    }
}
