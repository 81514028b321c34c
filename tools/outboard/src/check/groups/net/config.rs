//! What an interface says of itself, and offers.

use outboard_vhost_user::ProtocolFeatures;
use outboard_virtio_defs::net::{
    Config, F_CSUM, F_CTRL_GUEST_OFFLOADS, F_CTRL_MAC_ADDR, F_CTRL_RX, F_CTRL_VLAN, F_CTRL_VQ,
    F_GUEST_ANNOUNCE, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_UFO, F_GUEST_USO4,
    F_GUEST_USO6, F_HASH_REPORT, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_UFO, F_HOST_USO, F_MAC, F_MQ,
    F_MTU, F_NOTF_COAL, F_RSC_EXT, F_RSS, F_SPEED_DUPLEX, F_STATUS, F_VQ_NOTF_COAL, S_ANNOUNCE, S_LINK_UP,
};
use outboard_virtqueue::Format;
use zerocopy::FromBytes;

use super::{is_net, setup};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::session::Session;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "net.config-mac",
        title: "the MAC address in the configuration is one of a single interface",
        spec: "VIRTIO 1.3, 5.1.4",
        run: mac,
    },
    Check {
        id: "net.config-status",
        title: "the status has only bits that stand for something, and asks no driver to announce itself that cannot",
        spec: "VIRTIO 1.3, 5.1.4",
        run: status,
    },
    Check {
        id: "net.config-mtu",
        title: "the longest packet is of 68 bytes at least",
        spec: "VIRTIO 1.3, 5.1.4.1",
        run: mtu,
    },
    Check {
        id: "net.config-pairs",
        title: "there are as many pairs as the configuration says, and one at least",
        spec: "VIRTIO 1.3, 5.1.4.1; in use: QEMU (GET_QUEUE_NUM)",
        run: pairs,
    },
    Check {
        id: "net.config-speed",
        title: "speed and duplex have values that stand for something",
        spec: "VIRTIO 1.3, 5.1.4.1",
        run: speed,
    },
    Check {
        id: "net.config-rss",
        title: "the hash's key has 40 bytes at least, and its table 128 entries",
        spec: "VIRTIO 1.3, 5.1.4.1",
        run: rss,
    },
    Check {
        id: "net.offers-needs",
        title: "no feature is on offer without those that it needs",
        spec: "VIRTIO 1.3, 5.1.3.1 and 2.2.1",
        run: offers,
    },
];

/// The configuration, of a device that shows it and offers this.
fn config_of(cx: &mut Cx, feature: u64, name: &str) -> Checked<Config> {
    is_net(cx)?;
    cx.needs(ProtocolFeatures::CONFIG)?;
    cx.needs_feature(feature, name)?;
    let mut session = Session::open(cx, &setup(Format::Split))?;
    let size = u32::try_from(size_of::<Config>())?;
    let data = session.wire.config(0, size, 0)?;
    Config::read_from_bytes(&data).map_err(|_| Stop::fail("a configuration of another length"))
}

fn mac(cx: &mut Cx) -> Checked {
    let mac = config_of(cx, F_MAC, "MAC")?.mac;
    ensure!(mac != [0; 6], "the address of none");
    ensure!(mac.first().is_some_and(|first| first & 1 == 0), "{mac:02x?} is an address of many");
    Ok(())
}

fn status(cx: &mut Cx) -> Checked {
    let status = config_of(cx, F_STATUS, "STATUS")?.status.get();
    let known = S_LINK_UP | if cx.offer.features & F_GUEST_ANNOUNCE == 0 { 0 } else { S_ANNOUNCE };
    ensure!(status & !known == 0, "status {status:#x}");
    Ok(())
}

fn mtu(cx: &mut Cx) -> Checked {
    let mtu = config_of(cx, F_MTU, "MTU")?.mtu.get();
    ensure!(mtu >= 68, "an MTU of {mtu}");
    Ok(())
}

fn pairs(cx: &mut Cx) -> Checked {
    let feature = if cx.offer.features & F_RSS == 0 { F_MQ } else { F_RSS };
    let pairs = config_of(cx, feature, "MQ")?.max_virtqueue_pairs.get();
    ensure!((1..=0x8000).contains(&pairs), "{pairs} pairs");
    if let Some(queues) = cx.offer.queues {
        // Some count rings, and some pairs.
        ensure!(queues >= pairs.into(), "{pairs} pairs, GET_QUEUE_NUM said {queues}");
    }
    Ok(())
}

fn speed(cx: &mut Cx) -> Checked {
    let config = config_of(cx, F_SPEED_DUPLEX, "SPEED_DUPLEX")?;
    let (speed, duplex) = (config.speed.get(), config.duplex);
    ensure!(speed <= 0x7fff_ffff || speed == u32::MAX, "a speed of {speed:#x}");
    ensure!(matches!(duplex, 0 | 1 | 0xff), "a duplex of {duplex}");
    Ok(())
}

fn rss(cx: &mut Cx) -> Checked {
    let offered = cx.offer.features;
    let feature = if offered & F_RSS == 0 { F_HASH_REPORT } else { F_RSS };
    let config = config_of(cx, feature, "RSS or HASH_REPORT")?;
    let (key, table) = (config.rss_max_key_size, config.rss_max_indirection_table_length.get());
    ensure!(key >= 40, "a key of {key} bytes");
    ensure!(offered & F_RSS == 0 || table >= 128, "a table of {table} entries");
    Ok(())
}

fn offers(cx: &mut Cx) -> Checked {
    is_net(cx)?;
    let offered = cx.offer.features;
    for (features, any, what) in [
        (F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_UFO | F_GUEST_USO4 | F_GUEST_USO6, F_GUEST_CSUM, "GUEST_CSUM"),
        (F_GUEST_ECN, F_GUEST_TSO4 | F_GUEST_TSO6, "GUEST_TSO4 or GUEST_TSO6"),
        (F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_UFO | F_HOST_USO, F_CSUM, "CSUM"),
        (F_HOST_ECN, F_HOST_TSO4 | F_HOST_TSO6, "HOST_TSO4 or HOST_TSO6"),
        (F_RSC_EXT, F_HOST_TSO4 | F_HOST_TSO6, "HOST_TSO4 or HOST_TSO6"),
        (
            F_CTRL_RX
                | F_CTRL_VLAN
                | F_GUEST_ANNOUNCE
                | F_MQ
                | F_CTRL_MAC_ADDR
                | F_CTRL_GUEST_OFFLOADS
                | F_NOTF_COAL
                | F_VQ_NOTF_COAL
                | F_RSS,
            F_CTRL_VQ,
            "CTRL_VQ",
        ),
    ] {
        let needy = offered & features;
        ensure!(needy == 0 || offered & any != 0, "{needy:#x} on offer, which need {what}");
    }
    Ok(())
}
