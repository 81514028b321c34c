//! Rings that begin elsewhere than at 0, and whose parts lie as close together as they may.

use super::{Rig, START, Setup, both, serve};
use crate::driver::{DriverConfig, DriverQueue, Layout};
use crate::{Base, Format, Virtqueue};

both! { ring_that_begins_in_the_middle_goes_on_over_the_wrap tight_ring_works }

fn round_trips(rig: &mut Rig, queue: &mut Virtqueue, count: u64) {
    for token in 0..count {
        rig.add_simple(token);
        rig.driver.publish();
        let mut chain = queue.pop().unwrap().unwrap();
        assert_eq!(serve(&mut chain), token);
        queue.complete(chain);
        queue.publish();
        assert!(queue.pop().unwrap().is_none());
        assert_eq!(rig.driver.poll_used().unwrap(), Some((token, 8)));
    }
}

fn ring_that_begins_in_the_middle_goes_on_over_the_wrap(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    let (base, used) = match format {
        Format::Split => (Base::split(65_530), 65_530),
        Format::Packed => (Base::packed(5, false, 5, false), 0),
    };
    rig.driver.begin_at(base, used);
    let mut queue = rig.config(base).activate().unwrap();
    assert!(queue.pop().unwrap().is_none());
    round_trips(&mut rig, &mut queue, 20);
    let end = match format {
        Format::Split => Base::split(14),
        // Forty descriptors on, in a ring of eight.
        Format::Packed => Base::packed(5, true, 5, true),
    };
    assert_eq!(queue.base(), end);
}

fn tight_ring_works(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 4));
    let layout = Layout::tight(format, 4, 0);
    let config =
        DriverConfig { format, size: 4, event_idx: false, in_order: false, table_entries: 0, at: START + 16 };
    rig.driver = DriverQueue::with_layout(&config, layout, &rig.mem).unwrap();
    assert_eq!(layout.driver, 64);
    assert!(layout.device <= 80);
    let mut queue_config = rig.config(rig.driver.fresh_base());
    for part in [&mut queue_config.desc, &mut queue_config.avail, &mut queue_config.used] {
        *part += 16;
    }
    let mut queue = queue_config.activate().unwrap();
    round_trips(&mut rig, &mut queue, 9);
}
