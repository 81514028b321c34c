//! What only networks are told.

use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtio_defs::net::{Config, F_MTU};
use outboard_virtqueue::Format;
use zerocopy::{FromBytes, IntoBytes};

use super::{Nic, is_net, setup};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::session::Setup;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "net.mtu-message",
        title: "an MTU within what the device has is accepted, before the rings run and after",
        spec: "vhost-user: NET_SET_MTU; in use: QEMU (host_mtu)",
        run: mtu,
    },
    Check {
        id: "net.mtu-message-wrong",
        title: "what cannot be an MTU is refused, and changes nothing",
        spec: "vhost-user: NET_SET_MTU; VIRTIO 1.3, 5.1.4.1",
        run: mtu_wrong,
    },
    Check {
        id: "net.rarp-message",
        title: "a device that offers to tell the network of a guest that has moved does so, or accepts it at least",
        spec: "vhost-user: SEND_RARP; in use: QEMU after migration",
        run: rarp,
    },
];

/// An interface that was told what may be told, with this protocol feature.
fn open(cx: &mut Cx, feature: ProtocolFeatures, format: Format) -> Checked<Nic> {
    is_net(cx)?;
    cx.needs(feature | ProtocolFeatures::REPLY_ACK)?;
    let setup = setup(format);
    let protocol = setup.protocol | feature;
    Nic::open(cx, &Setup { protocol, device_features: setup.device_features | F_MTU, ..setup })
}

/// What the configuration tells, where there is one.
fn told(cx: &Cx, nic: &mut Nic) -> Checked<Option<u16>> {
    if !cx.offer.has(ProtocolFeatures::CONFIG) || !nic.has(F_MTU) {
        return Ok(None);
    }
    let data = nic.session.wire.config(0, u32::try_from(size_of::<Config>())?, 0)?;
    let config =
        Config::read_from_bytes(&data).map_err(|_| Stop::fail("a configuration of another length"))?;
    Ok(Some(config.mtu.get()))
}

fn mtu(cx: &mut Cx) -> Checked {
    let mut nic = open(cx, ProtocolFeatures::MTU, Format::Split)?;
    let most = told(cx, &mut nic)?.filter(|mtu| *mtu >= 68).unwrap_or(1500);
    for mtu in [most, most.min(1500), 68.max(most.min(576))] {
        nic.session.wire.set(Code::NET_SET_MTU, u64::from(mtu).as_bytes(), &[])?;
        let now = told(cx, &mut nic)?;
        ensure!(now.is_none_or(|now| now <= most), "the MTU was {most}, and is {now:?} after {mtu}");
        nic.works()?;
    }
    Ok(())
}

fn mtu_wrong(cx: &mut Cx) -> Checked {
    let mut nic = open(cx, ProtocolFeatures::MTU, Format::Split)?;
    let before = told(cx, &mut nic)?;
    for mtu in [0, 1, 67, 0x1_0000, 0x1_0000_05dc, u64::MAX] {
        nic.session.wire.nacked(Code::NET_SET_MTU, mtu.as_bytes(), &[])?;
        ensure!(
            told(cx, &mut nic)? == before,
            "an MTU of {mtu} was refused, and has changed the configuration"
        );
    }
    nic.works()
}

fn rarp(cx: &mut Cx) -> Checked {
    let mut nic = open(cx, ProtocolFeatures::RARP, Format::Split)?;
    // 02:00:00:00:00:fd, in the low 6 bytes of 8.
    let mac = [2, 0, 0, 0, 0, 0xfd, 0, 0];
    nic.session.wire.set(Code::SEND_RARP, &mac, &[])?;
    nic.works()
}
