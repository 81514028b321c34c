//! Chains that a handler lends, on the bench.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use outboard_device::testing::{Bench, Format};
use outboard_device::{Chain, Cx, Flow, Handler, Parcel, QueueId};

const QUEUE: QueueId = QueueId(0);

/// Lends what it gets, two at a time, and serves what comes back unanswered itself.
#[derive(Default)]
struct Lender {
    batch: Vec<Chain>,
    lent: Vec<Parcel>,
}

impl Handler for Lender {
    type Op = ();

    fn request(&mut self, chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        self.batch.push(chain);
        if self.batch.len() == 2 {
            self.lent.push(cx.lend(&mut self.batch));
            assert!(self.batch.is_empty());
        }
        Flow::Next
    }

    fn returned(&mut self, chains: &mut Vec<Chain>, cx: &mut Cx<'_, ()>) {
        if let Some(at) = chains.iter().position(|chain| chain.written() == 0) {
            let mut chain = chains.remove(at);
            chain.write_all(b"self").unwrap();
            let _ = cx.done(chain);
        }
    }
}

fn bench(format: Format) -> (Bench<Lender>, Parcel, Parcel) {
    let mut bench = Bench::new(Lender::default(), format);
    for _ in 0..4 {
        bench.send(QUEUE, &[], &[4]);
    }
    bench.run();
    let mut lent = std::mem::take(&mut bench.handler().lent).into_iter();
    let (first, second) = (lent.next().unwrap(), lent.next().unwrap());
    (bench, first, second)
}

#[test]
fn chains_come_back_by_the_parcel_and_those_left_are_completed() {
    for format in [Format::Split, Format::Packed] {
        let (mut bench, mut first, second) = bench(format);
        assert_eq!((first.len(), bench.receive(QUEUE)), (2, None));
        first.chains()[1].write_all(b"them").unwrap();
        drop(first);
        bench.run();
        let mut outputs = [(); 2].map(|()| bench.receive(QUEUE).unwrap().outputs.concat());
        outputs.sort();
        assert_eq!(outputs, [b"self", b"them"]);
        assert_eq!(bench.receive(QUEUE), None);
        drop(second);
        bench.run();
        assert_eq!(std::iter::from_fn(|| bench.receive(QUEUE)).count(), 2);
        assert_eq!(bench.outstanding(QUEUE), 0);
    }
}

#[test]
fn parcel_that_is_given_back_is_handed_over_again_in_its_order() {
    for format in [Format::Split, Format::Packed] {
        let (mut bench, mut first, mut second) = bench(format);
        // What was done with them by then is void.
        second.chains()[0].write_all(b"x").unwrap();
        first.chains()[1].write_all(b"y").unwrap();
        bench.enable(QUEUE, false);
        second.give_back();
        first.give_back();
        bench.run();
        assert_eq!((bench.receive(QUEUE), bench.handler().lent.len()), (None, 0));
        bench.enable(QUEUE, true);
        bench.run();
        for (mut parcel, tokens) in
            std::mem::take(&mut bench.handler().lent).into_iter().zip([[0, 1], [2, 3]])
        {
            parcel.chains().iter_mut().for_each(|chain| chain.write_all(b"them").unwrap());
            drop(parcel);
            bench.run();
            let answers = [(); 2].map(|()| bench.receive(QUEUE).unwrap());
            assert_eq!(answers.each_ref().map(|answer| answer.token), tokens);
            assert!(answers.iter().all(|answer| answer.outputs.concat() == b"them" && answer.len == 4));
        }
        assert_eq!(bench.outstanding(QUEUE), 0);
    }
}

#[test]
fn parcel_that_outlives_its_worker_gives_its_chains_up() {
    for format in [Format::Split, Format::Packed] {
        let (bench, first, second) = bench(format);
        // One comes home, and nobody looks; the other one finds nobody. Chains that were lost would panic.
        drop(first);
        drop(bench);
        drop(second);
    }
}
