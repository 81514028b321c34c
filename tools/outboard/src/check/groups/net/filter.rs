//! What receive filters let through. What they keep out is theirs to say: filtering is best effort, and a driver takes
//! packets that it did not ask for (VIRTIO 1.3, 5.1.6.5.2).

use outboard_virtio_defs::net::{Config, F_CTRL_MAC_ADDR, F_CTRL_RX, F_CTRL_RX_EXTRA, F_CTRL_VLAN, F_MAC};
use outboard_virtio_defs::net_control::Command;
use zerocopy::FromBytes;

use super::control::{Controlled, each};
use super::needs_loop;
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::verdict::{Checked, Stop};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "net.filter-own",
        title: "out of the promiscuous mode, packets to the device's own address and to all are received",
        spec: "VIRTIO 1.3, 5.1.6.5.1 and 5.1.6.5.2; in use: Linux",
        run: own,
    },
    Check {
        id: "net.filter-table",
        title: "packets to the addresses of the last table are received",
        spec: "VIRTIO 1.3, 5.1.6.5.2; in use: Linux",
        run: table,
    },
    Check {
        id: "net.filter-modes",
        title: "promiscuous and all-multicast let packets through once they are on",
        spec: "VIRTIO 1.3, 5.1.6.5.1; in use: Linux",
        run: modes,
    },
    Check {
        id: "net.filter-extra",
        title: "what the modes of CTRL_RX_EXTRA keep out is received once they are off",
        spec: "VIRTIO 1.3, 5.1.6.5.1",
        run: extra,
    },
    Check {
        id: "net.filter-vlan",
        title: "packets of VLANs that were added, and those without a tag, are received",
        spec: "VIRTIO 1.3, 5.1.6.5.3; in use: Linux",
        run: vlan,
    },
];

const ALL: [u8; 6] = [0xff; 6];
const GROUP: [u8; 6] = [0x33, 0x33, 0, 0, 0, 9];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x77];

/// With interfaces that loop, and filter.
fn filtering(cx: &mut Cx, features: u64, body: impl FnMut(&mut Controlled) -> Checked) -> Checked {
    needs_loop(cx)?;
    cx.needs_feature(F_CTRL_RX, "CTRL_RX")?;
    each(cx, features, body)
}

impl Controlled {
    /// A packet to this address is received, of a VLAN or none.
    fn receives(&mut self, to: [u8; 6], vlan: Option<u16>, when: &str) -> Checked {
        let mut frame = self.nic.tagged(60);
        frame.splice(..6, to);
        if let Some(id) = vlan {
            frame.splice(12..12, [&[0x81, 0], &id.to_be_bytes()[..]].concat());
        }
        self.nic.post(1, 2048)?;
        self.nic.send(&frame)?;
        loop {
            let came = self.nic.receive().map_err(|stop| {
                stop.when(format_args!("{when}, to {to:02x?}{}", vlan.map_or("", |_| ", tagged")))
            })?;
            if came.frame == frame {
                return Ok(());
            }
        }
    }

    fn switch(&mut self, mode: Command, on: bool) -> Checked {
        self.done(mode, &[on.into()])
    }

    /// The device's own address, which is set if that can be.
    fn own_address(&mut self) -> Checked<[u8; 6]> {
        if self.nic.has(F_CTRL_MAC_ADDR) {
            let own = [2, 0, 0, 0, 0x11, 0x22];
            self.done(Command::MAC_ADDR_SET, &own)?;
            return Ok(own);
        }
        let data = self.nic.session.wire.config(0, u32::try_from(size_of::<Config>())?, 0)?;
        let config = Config::read_from_bytes(&data).map_err(|_| Stop::lacks("a configuration"))?;
        if self.nic.has(F_MAC) { Ok(config.mac) } else { Err(Stop::lacks("an address")) }
    }

    fn set_tables(&mut self, unicasts: &[[u8; 6]], multicasts: &[[u8; 6]]) -> Checked {
        let mut data = Vec::new();
        for table in [unicasts, multicasts] {
            data.extend(u32::try_from(table.len())?.to_le_bytes());
            data.extend_from_slice(table.as_flattened());
        }
        self.done(Command::MAC_TABLE_SET, &data)
    }
}

fn own(cx: &mut Cx) -> Checked {
    filtering(cx, F_MAC, |device| {
        device.switch(Command::RX_PROMISC, false)?;
        let own = device.own_address()?;
        for to in [own, ALL] {
            device.receives(to, None, "out of the promiscuous mode")?;
        }
        Ok(())
    })
}

fn table(cx: &mut Cx) -> Checked {
    filtering(cx, 0, |device| {
        device.switch(Command::RX_PROMISC, false)?;
        let many: Vec<[u8; 6]> = (0..40).map(|number| [2, 0, 0, 1, 0, number]).collect();
        for unicasts in [&[OTHER][..], &many] {
            device.set_tables(unicasts, &[GROUP])?;
            for to in [unicasts.first(), unicasts.last(), Some(&GROUP), Some(&ALL)].into_iter().flatten() {
                device.receives(*to, None, "in the table")?;
            }
        }
        Ok(())
    })
}

fn modes(cx: &mut Cx) -> Checked {
    filtering(cx, 0, |device| {
        device.switch(Command::RX_PROMISC, false)?;
        device.set_tables(&[], &[])?;
        device.switch(Command::RX_ALLMULTI, true)?;
        device.receives(GROUP, None, "with all-multicast")?;
        device.switch(Command::RX_ALLMULTI, false)?;
        device.switch(Command::RX_PROMISC, true)?;
        for to in [OTHER, GROUP, ALL] {
            device.receives(to, None, "in the promiscuous mode")?;
        }
        Ok(())
    })
}

fn extra(cx: &mut Cx) -> Checked {
    cx.needs_feature(F_CTRL_RX_EXTRA, "CTRL_RX_EXTRA")?;
    filtering(cx, F_CTRL_RX_EXTRA, |device| {
        device.switch(Command::RX_PROMISC, false)?;
        device.set_tables(&[OTHER], &[GROUP])?;
        for (mode, to) in
            [(Command::RX_NOUNI, OTHER), (Command::RX_NOMULTI, GROUP), (Command::RX_NOBCAST, ALL)]
        {
            device.switch(mode, true)?;
            device.switch(mode, false)?;
            device.receives(to, None, "though nothing keeps it out")?;
        }
        device.switch(Command::RX_ALLUNI, true)?;
        device.receives([2, 0, 0, 0, 0, 0x78], None, "with all-unicast")
    })
}

fn vlan(cx: &mut Cx) -> Checked {
    cx.needs_feature(F_CTRL_VLAN, "CTRL_VLAN")?;
    filtering(cx, 0, |device| {
        device.switch(Command::RX_PROMISC, false)?;
        device.set_tables(&[OTHER], &[])?;
        for id in [5_u16, 4094] {
            device.done(Command::VLAN_ADD, &id.to_le_bytes())?;
            device.receives(OTHER, Some(id), "in a VLAN that was added")?;
        }
        device.done(Command::VLAN_DEL, &5_u16.to_le_bytes())?;
        for vlan in [None, Some(4094)] {
            device.receives(OTHER, vlan, "when another VLAN was removed")?;
        }
        Ok(())
    })
}
