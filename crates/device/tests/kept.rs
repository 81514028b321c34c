//! A handler that pops a queue it keeps, on the bench.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use outboard_device::testing::{Bench, Format, Setup};
use outboard_device::{Chain, Cx, Flow, Handler, QueueId};

const KEPT: QueueId = QueueId(0);
const ASK: QueueId = QueueId(1);

/// Does what it is asked for with the queue that it keeps: pops until there is nothing, and then pops again what was put
/// back, or not.
struct Popper {
    works: u32,
}

impl Handler for Popper {
    type Op = ();

    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        if on && queue == KEPT {
            cx.keep(queue);
        }
    }

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        let again = chain.read_obj::<u8>().unwrap() > 0;
        let kept = cx.pop(KEPT).unwrap();
        assert!(cx.pop(KEPT).is_none());
        cx.put_back(kept);
        if again {
            let kept = cx.pop(KEPT).unwrap();
            let _ = cx.done(kept);
        }
        cx.done(chain)
    }

    fn work(&mut self, _: &mut Cx<'_, ()>) -> bool {
        self.works += 1;
        false
    }
}

#[test]
fn kept_queue_is_wanted_no_longer_once_a_pop_has_found_something() {
    for format in [Format::Split, Format::Packed] {
        for again in [false, true] {
            let mut bench = Bench::with(Popper { works: 0 }, &Setup { queues: 2, ..Setup::new(format) });
            bench.send(KEPT, &[], &[8]);
            bench.send(ASK, &[&[again.into()]], &[]);
            bench.run();
            let works = bench.handler().works;
            bench.send(KEPT, &[], &[8]);
            bench.run();
            assert_eq!(bench.handler().works == works, again, "{format:?}");
        }
    }
}
