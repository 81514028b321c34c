//! A port in the hands of the control half. Commands come from the control socket.

use std::sync::Arc;
use std::time::Instant;

use outboard_device::serde_json::{Map, Value, json};
use outboard_device::{Counter, DeviceError, Outlet};
use outboard_frames::{Offload, rarp};
use outboard_switch::{Decision, Front, Mac, Membership, PortId, PortSettings, Why, decide};

use super::delivery::{Delivery, Frame};
use super::fabric::{Floods, Plan, Seat, Switch};
use super::mirror::Mirror;
use super::shares::Shares;
use super::side::{MOST_FRAMES, PortSide, has_room};
use super::uplink::Wire;
use super::{DEFAULT, SwitchOptions, Switches};
use crate::host::{Backing, Side, Terms};

/// A port of a switch.
pub(crate) struct Port {
    switch: Arc<Switch>,
    id: PortId,
    seat: Arc<Seat>,
    settings: PortSettings,
    floods: Arc<Floods>,
    shares: Arc<Shares>,
    mirror: Option<Arc<Mirror>>,
    /// Of each pair that was served.
    counters: Vec<(u16, Arc<PortCounters>)>,
}

/// What became of packets that the guest has sent, beside those that arrived.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct PortCounters {
    /// Copies: for several ports, or for one that is slow.
    pub(super) copied: Counter,
    /// The switch had reasons of its own.
    pub(super) dropped: [Counter; Why::ALL.len()],
    /// To several, and too many of them.
    pub(super) flood_limit: Counter,
    /// The other port has more than it can take.
    pub(super) to_full: Counter,
    /// The other port receives nothing at all.
    pub(super) to_down: Counter,
    /// With a tag in a place that no header can tell of.
    pub(super) no_tag: Counter,
    /// On their way to or from the port when it was turned off.
    pub(super) cut_off: Counter,
}

impl PortCounters {
    /// A packet goes nowhere.
    pub(super) fn decided(&self, why: Why) {
        if let Some((counter, _)) = self.dropped.iter().zip(Why::ALL).find(|(_, (known, _))| *known == why) {
            counter.add(1);
        }
    }

    /// So many packets are not taken by a port that they were for.
    pub(super) fn not_taken(&self, outlet: &Outlet<Delivery>, packets: u64) {
        let counter = if outlet.is_closed() { &self.to_down } else { &self.to_full };
        counter.add(packets);
    }

    /// Why packets arrived nowhere, and how many.
    pub(super) fn lost(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let others = [
            ("flood_limit", &self.flood_limit),
            ("to_full", &self.to_full),
            ("to_down", &self.to_down),
            ("no_tag", &self.no_tag),
        ];
        let dropped = self.dropped.iter().zip(Why::ALL).map(|(counter, (_, name))| (name, counter));
        dropped.chain(others).map(|(name, counter)| (name, counter.value()))
    }

    fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.lost().chain([("cut_off", self.cut_off.value())])
    }
}

impl Port {
    /// Joins the switch.
    ///
    /// # Errors
    /// It has no place left.
    pub(crate) fn open(
        options: &SwitchOptions,
        name: &str,
        switches: &Switches,
    ) -> Result<Self, DeviceError> {
        let switch = switches.open(options.switch.as_deref().unwrap_or(DEFAULT));
        let membership = match (options.vlan, &options.trunk) {
            (Some(vlan), _) => Membership::Access(vlan),
            (None, Some(trunk)) => trunk.clone(),
            (None, None) => Membership::default(),
        };
        let settings = PortSettings { membership, isolated: options.isolated, uplink: false };
        let mirror = options.mirror.as_deref().map(Mirror::open).transpose()?.map(Arc::new);
        let seat = switch.join(name, settings.clone(), None)?;
        let floods = Arc::new(Floods::new(switch.flood_pps));
        let (shares, counters) = (Arc::default(), Vec::new());
        Ok(Self { switch, id: seat.port, seat, settings, floods, shares, mirror, counters })
    }

    /// Gives another port a frame.
    fn tell(&self, plan: &Plan, port: PortId, frame: Frame) {
        let copied = self.shares.of(port).copied;
        if let Some(wire) = plan.wire(port) {
            wire.send(&frame.offload, &mut frame.bytes.clone(), None);
        } else if let Some(entrance) = plan.entrance(port, 0)
            && has_room(MOST_FRAMES, &entrance.frames, &copied)
        {
            // If there is no room, the guest will be heard when it speaks for itself.
            let (frame, places) = (Arc::new(frame), [entrance.frames.enter(1), copied.enter(1)]);
            entrance.outlet.post(&mut vec![Delivery::Frame { from: self.id, frame, _places: places }]);
        }
    }

    fn counters(&mut self, pair: u16) -> Arc<PortCounters> {
        if let Some((_, counters)) = self.counters.iter().find(|(known, _)| *known == pair) {
            return Arc::clone(counters);
        }
        let counters = Arc::default();
        self.counters.push((pair, Arc::clone(&counters)));
        counters
    }

    fn set(&mut self, arguments: &Value) -> Result<Value, DeviceError> {
        let wrong = |what: &str| DeviceError::Invalid(what.to_owned());
        let settings = arguments.as_object().ok_or_else(|| wrong("set takes vlan, trunk and isolated"))?;
        let mut changed = self.settings.clone();
        if settings.contains_key("vlan") && settings.contains_key("trunk") {
            return Err(wrong("either vlan or trunk"));
        }
        for (key, value) in settings {
            // Numbers may come as such.
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let invalid = |error| DeviceError::Invalid(format!("{key}: {error}"));
            match key.as_str() {
                "vlan" => changed.membership = Membership::Access(text.parse().map_err(invalid)?),
                "trunk" => changed.membership = text.parse().map_err(invalid)?,
                "isolated" => {
                    changed.isolated = value.as_bool().ok_or_else(|| wrong("isolated: true or false"))?;
                }
                _ => return Err(wrong("set takes vlan, trunk and isolated")),
            }
        }
        if changed != self.settings {
            self.switch.set(self.id, changed.clone());
            self.settings = changed;
        }
        Ok(self.shown().into())
    }

    /// The addresses that the switch knows.
    fn fdb(&self) -> Value {
        let now = self.switch.seconds(Instant::now());
        let plan = self.switch.plan();
        let mut entries = self.switch.fdb.entries(now);
        entries.sort_by_key(|entry| (entry.vlan, entry.mac));
        let shown = entries.into_iter().map(|entry| {
            json!({
                "vlan": entry.vlan.id(),
                "mac": entry.mac.to_string(),
                "port": plan.name(entry.port),
                "age": now.saturating_sub(entry.seen),
            })
        });
        shown.collect()
    }

    fn shown(&self) -> Map<String, Value> {
        let (key, vlans) = match &self.settings.membership {
            Membership::Access(vlan) => ("vlan", vlan.id().into()),
            trunk => ("trunk", trunk.to_string().into()),
        };
        [(key, vlans), ("isolated", self.settings.isolated.into())]
            .into_iter()
            .map(|(key, value): (&str, Value)| (key.to_owned(), value))
            .collect()
    }
}

impl Backing for Port {
    fn name(&self) -> &'static str {
        "switch"
    }

    fn side(&mut self, pair: u16, _: &Terms) -> Result<Box<dyn Side>, DeviceError> {
        let counters = self.counters(pair);
        let (seat, floods, shares) =
            (Arc::clone(&self.seat), Arc::clone(&self.floods), Arc::clone(&self.shares));
        Ok(Box::new(PortSide::new(seat, pair, floods, shares, counters, self.mirror.clone())))
    }

    /// Not offered: one packet that waits for a slow port would hold up all behind it.
    fn keeps_order(&self) -> bool {
        false
    }

    /// By a reverse ARP request to everybody (RFC 903): other switches learn from it, too.
    fn announce(&mut self, mac: [u8; 6]) -> Result<(), DeviceError> {
        let now = Instant::now();
        if !self.floods.admit(1, now) {
            let limit = self.switch.flood_pps;
            return Err(DeviceError::Invalid(format!("more than {limit} packets to everybody in a second")));
        }
        let bytes = rarp(mac);
        let Some(front) = Front::parse(&bytes) else { return Ok(()) };
        let plan = self.switch.plan();
        let now = self.switch.seconds(now);
        match decide(&plan.ports, &self.switch.fdb, self.id, &front, now) {
            Decision::Flood(vlan) => {
                for egress in plan.ports.flood(self.id, front, vlan) {
                    let mut tagged = Vec::with_capacity(bytes.len() + 4);
                    egress.retag.write(&bytes, &mut tagged);
                    let frame = Frame { offload: Offload::None, bytes: tagged };
                    self.tell(&plan, egress.port, frame);
                }
                Ok(())
            }
            Decision::Unicast(_) | Decision::Drop(_) => {
                Err(DeviceError::Invalid(format!("{} cannot be announced by this port", Mac(mac))))
            }
        }
    }

    fn control(&mut self, command: &str, arguments: &Value) -> Option<Result<Value, DeviceError>> {
        match command {
            "fdb" => Some(Ok(self.fdb())),
            "flush" => {
                self.switch.fdb.flush();
                Some(Ok(json!({})))
            }
            "set" => Some(self.set(arguments)),
            _ => None,
        }
    }

    fn status(&self) -> Value {
        let mut status = self.shown();
        status.insert("switch".to_owned(), self.switch.name().into());
        let mut dropped = Map::new();
        let mut copied = 0;
        for (_, counters) in &self.counters {
            copied += counters.copied.value();
            for (name, count) in counters.named() {
                let sum = dropped.get(name).and_then(Value::as_u64).unwrap_or(0) + count;
                dropped.insert(name.to_owned(), sum.into());
            }
        }
        let wires: Vec<Value> = self.switch.plan().wires().map(Wire::status).collect();
        status
            .insert("mirror".to_owned(), self.mirror.as_ref().map_or(Value::Null, |mirror| mirror.status()));
        status.insert("uplinks".to_owned(), wires.into());
        status.insert("copied".to_owned(), copied.into());
        status.insert("dropped".to_owned(), dropped.into());
        status.into()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.switch.leave(self.id);
    }
}
