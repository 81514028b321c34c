//! What a disk says of itself.

use outboard_vhost_user::payload::ConfigHeader;
use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtio_defs::blk::{
    F_BLK_SIZE, F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_MQ, F_SECURE_ERASE, F_SEG_MAX, F_SIZE_MAX,
    F_WRITE_ZEROES, S_OK, T_IN, WRITEBACK_OFFSET,
};
use outboard_virtqueue::Format;
use zerocopy::IntoBytes;

use super::{Disk, FEATURES, config_of, each, is_blk, setup};
use crate::check::catalogue::Check;
use crate::check::config::config_body;
use crate::check::cx::Cx;
use crate::check::session::Setup;
use crate::check::verdict::{Checked, Stop, ensure};
use crate::check::wire::Answer;

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "blk.config",
        title: "the fields of the configuration are consistent with the features, and with one another",
        spec: "VIRTIO 1.3, 5.2.4",
        run: config,
    },
    Check {
        id: "blk.capacity",
        title: "the last sector of the capacity can be read, and none behind it",
        spec: "VIRTIO 1.3, 5.2.4 (512-byte sectors)",
        run: capacity,
    },
    Check {
        id: "blk.num-queues",
        title: "the number of queues is that of GET_QUEUE_NUM, and each of them works",
        spec: "VIRTIO 1.3, 5.2.4; in use: QEMU, crosvm",
        run: num_queues,
    },
    Check {
        id: "blk.writeback",
        title: "the write cache can be switched off and on",
        spec: "VIRTIO 1.3, 5.2.5.2",
        run: writeback,
    },
    Check {
        id: "blk.writeback-values",
        title: "the write cache is never anything but on or off, whatever is written",
        spec: "VIRTIO 1.3, 5.2.5",
        run: writeback_values,
    },
    Check {
        id: "blk.writeback-without-flush",
        title: "with CONFIG_WCE and without FLUSH the write cache is off to begin with",
        spec: "VIRTIO 1.3, 5.2.5.2",
        run: writeback_without_flush,
    },
];

fn config(cx: &mut Cx) -> Checked {
    let disk = Disk::any(cx, &setup(Format::Split))?;
    let config = disk.config;
    ensure!(config.capacity.get() != 0, "a capacity of 0");
    if disk.offers(F_BLK_SIZE) {
        let size = config.blk_size.get();
        ensure!(size >= 512 && size.is_power_of_two(), "blocks of {size} bytes");
        if !config.capacity.get().is_multiple_of(u64::from(size / 512)) {
            cx.note(format!("a capacity of {} sectors in blocks of {size} bytes", config.capacity.get()));
        }
    }
    // VIRTIO 1.3, 5.2.5.2.
    ensure!(config.unused0 == 0 && config.unused1 == [0; 3], "the padding is not zero");
    if disk.offers(F_SIZE_MAX) {
        ensure!(config.size_max.get() >= 512, "segments of {} bytes (SIZE_MAX)", config.size_max.get());
    }
    if disk.offers(F_SECURE_ERASE) {
        ensure!(config.max_secure_erase_sectors.get() != 0, "secure erases of no sector");
        ensure!(config.max_secure_erase_seg.get() != 0, "secure erases of no segment");
    }
    if disk.offers(F_SEG_MAX) {
        ensure!(config.seg_max.get() != 0, "requests of no segment (SEG_MAX)");
    }
    if disk.offers(F_MQ) {
        ensure!(config.num_queues.get() != 0, "no queues (MQ)");
    }
    if disk.offers(F_DISCARD) {
        ensure!(config.max_discard_sectors.get() != 0, "discards of no sector");
        ensure!(config.max_discard_seg.get() != 0, "discards of no segment");
    }
    if disk.offers(F_WRITE_ZEROES) {
        ensure!(config.max_write_zeroes_sectors.get() != 0, "write-zeroes of no sector");
        ensure!(config.max_write_zeroes_seg.get() != 0, "write-zeroes of no segment");
        let may_unmap = config.write_zeroes_may_unmap;
        ensure!(may_unmap <= 1, "write_zeroes_may_unmap is {may_unmap}");
    }
    if disk.offers(F_CONFIG_WCE) {
        // VIRTIO 1.3, 5.2.5.1.
        ensure!(cx.offer.features & F_FLUSH != 0, "CONFIG_WCE is offered without FLUSH");
        ensure!(config.writeback <= 1, "writeback is {}", config.writeback);
    }
    Ok(())
}

fn capacity(cx: &mut Cx) -> Checked {
    each(cx, |_, disk| {
        let (sectors, block) = (disk.block_sectors(), disk.block());
        let last = (disk.capacity() / sectors).saturating_sub(1) * sectors;
        disk.read(last, block).map_err(|stop| stop.when("the last block"))?;
        let behind = disk.ask(T_IN, disk.capacity(), &[], &[u32::try_from(block)?])?;
        ensure!(behind.status != S_OK, "the sector behind the last one can be read");
        Ok(())
    })
}

fn num_queues(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_MQ, "MQ")?;
    cx.needs(ProtocolFeatures::MQ)?;
    cx.each_format(|cx, format| {
        let mut disk = Disk::open(cx, format)?;
        let (told, rings) = (u64::from(disk.config.num_queues.get()), cx.offer.queues.unwrap_or(0));
        ensure!(told == rings, "num_queues is {told}, GET_QUEUE_NUM said {rings}");
        let session = &mut disk.session;
        // Each takes requests as the last one of the session.
        for index in 1..u16::try_from(told.min(64))? {
            let at = session.add_ring(index)?;
            session.start(at)?;
            session.request().map_err(|stop| stop.when(format_args!("queue {index}")))?;
        }
        Ok(())
    })
}

fn writeback(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_CONFIG_WCE, "CONFIG_WCE")?;
    cx.each_format(|cx, format| {
        let mut disk = Disk::open(cx, format)?;
        let before = disk.config.writeback;
        let mut switched = Ok(());
        for value in [0, 1, 0, before] {
            switched = switched.and_then(|()| {
                let header = ConfigHeader { offset: WRITEBACK_OFFSET, size: 1, flags: 0 };
                let body = [header.as_bytes(), &[value]].concat();
                if disk.session.wire.try_set(Code::SET_CONFIG, &body, &[])? != Answer::Ack {
                    return Err(Stop::fail(format!("writeback cannot be set to {value}")));
                }
                let now = config_of(&mut disk.session)?.writeback;
                ensure!(now == value, "writeback was set to {value}, and is {now}");
                disk.session.request().map(drop)
            });
        }
        switched
    })
}

fn writeback_values(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_CONFIG_WCE, "CONFIG_WCE")?;
    cx.needs(ProtocolFeatures::REPLY_ACK)?;
    let mut disk = Disk::open(cx, Format::Split)?;
    let before = disk.config.writeback;
    let mut wrong = None;
    for value in [2, 0x80, 0xff] {
        disk.session.wire.try_config(WRITEBACK_OFFSET, 0, &[value])?;
        let now = config_of(&mut disk.session)?.writeback;
        wrong = wrong.or((now > 1).then_some((value, now)));
    }
    disk.session.wire.set(Code::SET_CONFIG, &config_body(WRITEBACK_OFFSET, 0, &[before]), &[])?;
    if let Some((value, now)) = wrong {
        return Err(Stop::Fail(format!("writeback was set to {value}, and is {now}")));
    }
    disk.session.request().map(drop)
}

fn writeback_without_flush(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_CONFIG_WCE | F_FLUSH, "CONFIG_WCE with FLUSH")?;
    let setup = Setup { device_features: FEATURES & !F_FLUSH, ..setup(Format::Split) };
    let disk = Disk::with(cx, &setup)?;
    ensure!(disk.config.writeback == 0, "writeback is {}", disk.config.writeback);
    Ok(())
}
