//! Gangs: equal requests that start together or not at all, in the smallest domain that holds them.

use super::{
    NodeIndex, Pool, RequestId, Ticket,
    decide::Domains,
    request::Domain,
    row::{NO, Rule},
};

/// What came of a gang.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gang {
    /// All have a place.
    Placed {
        /// Where each is.
        members: Vec<(NodeIndex, Ticket)>,
        /// The domain that holds them all; `None` is the whole pool.
        within: Option<(Domain, String)>,
    },
    /// None has; this many of them would have had.
    Waits {
        /// How many could be placed at most.
        placeable: usize,
        /// Where that is; `None` is the whole pool.
        within: Option<(Domain, String)>,
    },
}

impl Pool {
    /// Places `n` equal requests together or not at all: in one rack if one holds them, else in one zone, else anywhere; of several racks
    /// (or zones) that hold them, the one with the least room. After a refusal the pool is as before.
    pub fn place_gang(&mut self, request: RequestId, n: usize) -> Gang {
        let mut most: (usize, Option<(Domain, String)>) = (0, None);
        for level in [Domain::Rack, Domain::Zone] {
            let mut rooms: Vec<(u64, u32)> = (0u32..)
                .zip(self.places_by(request, level))
                .map(|(domain, room)| (room, domain))
                .filter(|(room, _)| *room > 0)
                .collect();
            rooms.sort_unstable();
            for (room, domain) in rooms {
                let name = self.domain_name(level, domain);
                if room < n as u64 {
                    most = most.max((usize::try_from(room).unwrap_or(n), Some((level, name))));
                    continue;
                }
                match self.try_gang(request, n, Some((level, domain))) {
                    Ok(members) => return Gang::Placed { members, within: Some((level, name)) },
                    Err(placeable) => most = most.max((placeable, Some((level, name)))),
                }
            }
        }
        match self.try_gang(request, n, None) {
            Ok(members) => Gang::Placed { members, within: None },
            Err(placeable) => {
                self.classes[request.0 as usize].waits = true;
                let (placeable, within) = if placeable >= most.0 { (placeable, None) } else { most };
                Gang::Waits { placeable, within }
            }
        }
    }

    fn try_gang(
        &mut self,
        request: RequestId,
        n: usize,
        within: Option<(Domain, u32)>,
    ) -> Result<Vec<(NodeIndex, Ticket)>, usize> {
        let overlay = self.overlay();
        let mut members = Vec::with_capacity(n);
        let fixed = self.classes[request.0 as usize].of_domains.is_empty();
        let mut domains: Option<Domains> = None;
        while members.len() < n {
            let Some((level, domain)) = within else {
                let Some(one) = self.place(request) else { break };
                members.push(one);
                continue;
            };
            self.sync(request.0);
            let limits = match domains.take() {
                Some(known) if fixed => known,
                _ => {
                    let mut limits = self.domains(request.0);
                    self.only(&mut limits, level, domain);
                    limits
                }
            };
            let best = self.best_with(request.0, &limits);
            domains = Some(limits);
            let Some(order) = best else { break };
            let node = NodeIndex(u32::try_from(order & 0xffff_ffff).unwrap_or(u32::MAX));
            members.push((node, self.restore(request, node)));
        }
        if members.len() == n {
            self.keep(overlay);
            return Ok(members);
        }
        self.drop_overlay(overlay);
        Err(members.len())
    }

    /// How many there is room for in each rack or zone: an upper bound where rules about others apply.
    fn places_by(&mut self, request: RequestId, level: Domain) -> Vec<u64> {
        self.sync(request.0);
        let class = &self.classes[request.0 as usize];
        let one_each = class.terms.iter().any(|term| {
            term.domain == Domain::Node && term.rule == Rule::Apart && class.member_of.contains(&term.group)
        });
        let len = if level == Domain::Zone { self.attributes.zones.all.len() } else { self.attributes.racks.all.len() };
        let mut rooms = vec![0; len];
        for (cell, score) in class.score.iter().enumerate() {
            if *score != NO {
                let times = if one_each { 1 } else { class.request.shape.times_in(&self.cells.at[cell].key.room) };
                let place = &self.cells.at[cell];
                let domain = if level == Domain::Zone { place.zone } else { place.rack };
                rooms[domain as usize] += u64::from(self.cells.at[cell].members) * u64::from(times);
            }
        }
        rooms
    }

    pub(super) fn domain_name(&self, level: Domain, domain: u32) -> String {
        match level {
            Domain::Zone => self.attributes.zones.all[domain as usize].clone(),
            _ => self.attributes.racks.all[domain as usize].1.clone(),
        }
    }
}
