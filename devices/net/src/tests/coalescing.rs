//! Calls that wait for each other, as the driver commands it.

use outboard_device::defs::net_control::{Coalescing, Command, ERR, OK, QueueCoalescing};

use super::commands::{COMMANDS, Machine, each_machine};
use super::*;

const FEATURES: u64 = COMMANDS | F_NOTF_COAL | F_VQ_NOTF_COAL;

fn calls(max_packets: u32, max_usecs: u32) -> Coalescing {
    Coalescing { max_packets: max_packets.into(), max_usecs: max_usecs.into() }
}

fn of_queue(QueueId(queue): QueueId, coalescing: Coalescing) -> QueueCoalescing {
    QueueCoalescing { queue: queue.into(), reserved: 0xffff.into(), coalescing }
}

impl Machine {
    /// How often the driver is called on both queues while the guest sends and receives so many packets, one by one.
    fn called(&mut self, packets: usize) -> [u64; 2] {
        let bench = &mut self.pairs[0];
        let before = [RX, TX].map(|queue| bench.calls(queue));
        for _ in 0..packets {
            bench.send(RX, &[], &[2048]);
            bench.send(TX, &[Header::default().as_bytes(), &pattern(60)], &[]);
            bench.run();
            assert!(bench.receive(TX).is_some() && bench.receive(RX).is_some());
        }
        let after = [RX, TX].map(|queue| bench.calls(queue));
        [after[0] - before[0], after[1] - before[1]]
    }

    /// How often it is called when so many microseconds have passed.
    fn called_after(&mut self, micros: u64) -> [u64; 2] {
        let bench = &mut self.pairs[0];
        let before = [RX, TX].map(|queue| bench.calls(queue));
        bench.pass(Duration::from_micros(micros));
        let after = [RX, TX].map(|queue| bench.calls(queue));
        [after[0] - before[0], after[1] - before[1]]
    }

    /// What the device says of a queue.
    fn told(&mut self, queue: QueueId) -> Option<Coalescing> {
        let Command { class, number } = Command::NOTF_COAL_VQ_GET;
        let asked = [class, number, queue.0 as u8, 0, 0, 0];
        self.control.send(self.queue, &[&asked], &[1, size_of::<Coalescing>()]);
        self.run();
        let answer = self.control.receive(self.queue).unwrap();
        match answer.outputs[0][..] {
            [OK] => Some(Coalescing::read_from_bytes(&answer.outputs[1]).unwrap()),
            [ERR] => {
                assert_eq!(answer.len, 1);
                None
            }
            _ => panic!("{answer:?}"),
        }
    }
}

#[test]
fn driver_is_called_once_for_so_many_packets_or_after_so_long() {
    each_machine(&["--backend=loop"], 1, FEATURES, |machine| {
        assert_eq!(machine.called(8), [8, 8], "nothing was asked for");
        assert_eq!(machine.command(Command::NOTF_COAL_RX_SET, calls(4, 100).as_bytes()), OK);
        assert_eq!(machine.called(8), [2, 8]);
        assert_eq!(machine.command(Command::NOTF_COAL_TX_SET, calls(5, 200).as_bytes()), OK);
        assert_eq!(machine.called(11), [2, 2]);
        // Three that were received wait, and one that was sent.
        assert_eq!(machine.called_after(99), [0, 0]);
        assert_eq!(machine.called_after(1), [1, 0]);
        assert_eq!(machine.called_after(100), [0, 1]);
        assert_eq!(machine.called_after(1000), [0, 0], "nothing happened since");
        assert_eq!(machine.called(3), [0, 0]);
        for none in [calls(0, 100), calls(4, 0), calls(1, 100)] {
            assert_eq!(machine.command(Command::NOTF_COAL_RX_SET, none.as_bytes()), OK);
            // What waited does not wait any longer.
            assert_eq!(machine.called_after(0), [0, 0]);
            assert_eq!(machine.called(2), [2, if none == calls(0, 100) { 1 } else { 0 }]);
            machine.called_after(1000);
        }
        machine.device.forget(Group(1));
        machine.run();
        assert_eq!(machine.called(3), [3, 3]);
    });
}

#[test]
fn what_was_set_for_one_queue_survives_a_pause() {
    for format in FORMATS {
        let mut machine = Machine::new(&["--backend=loop"], 1, FEATURES, format);
        assert_eq!(machine.command(Command::NOTF_COAL_TX_SET, calls(2, 50).as_bytes()), OK);
        assert_eq!(machine.command(Command::NOTF_COAL_VQ_SET, of_queue(RX, calls(3, 50)).as_bytes()), OK);
        for queue in [RX, TX] {
            machine.pairs[0].enable(queue, false);
        }
        let mut machine = machine.paused(|_| ());
        assert_eq!([machine.told(RX), machine.told(TX)], [Some(calls(3, 50)), Some(calls(2, 50))]);
        assert_eq!(machine.called(6), [2, 3]);
    }
}

#[test]
fn calls_of_a_queue_go_by_what_was_set_last_and_are_told() {
    each_machine(&["--backend=loop"], 1, FEATURES, |machine| {
        assert_eq!(machine.told(RX), Some(calls(0, 0)));
        assert_eq!(machine.command(Command::NOTF_COAL_VQ_SET, of_queue(RX, calls(3, 50)).as_bytes()), OK);
        assert_eq!([machine.told(RX), machine.told(TX)], [Some(calls(3, 50)), Some(calls(0, 0))]);
        assert_eq!(machine.called(6), [2, 6]);
        assert_eq!(machine.command(Command::NOTF_COAL_RX_SET, calls(2, 50).as_bytes()), OK);
        assert_eq!(machine.told(RX), Some(calls(2, 50)));
        assert_eq!(machine.called(6), [3, 6]);
        // Disabled and enabled again, it goes by what was set for all.
        assert_eq!(machine.command(Command::NOTF_COAL_VQ_SET, of_queue(RX, calls(6, 50)).as_bytes()), OK);
        assert_eq!(machine.called(6), [1, 6]);
        machine.pairs[0].enable(RX, false);
        machine.run();
        assert_eq!(machine.told(RX), None, "of a queue that is not enabled");
        assert_eq!(machine.command(Command::NOTF_COAL_VQ_SET, of_queue(RX, calls(6, 50)).as_bytes()), ERR);
        machine.pairs[0].enable(RX, true);
        machine.run();
        assert_eq!(machine.told(RX), Some(calls(2, 50)));
        assert_eq!(machine.called(6), [3, 6]);
    });
}

#[test]
fn call_that_waits_is_made_when_its_queue_rests() {
    each_machine(&["--backend=loop"], 1, FEATURES, |machine| {
        assert_eq!(machine.command(Command::NOTF_COAL_RX_SET, calls(100, 1_000_000).as_bytes()), OK);
        assert_eq!(machine.called(5), [0, 5]);
        let before = machine.pairs[0].calls(RX);
        machine.pairs[0].enable(RX, false);
        machine.pairs[0].run();
        assert_eq!(machine.pairs[0].calls(RX), before + 1);
    });
}

#[test]
fn driver_that_waits_for_its_whole_ring_is_called_at_half_of_it() {
    each_machine(&["--backend=loop"], 1, FEATURES, |machine| {
        assert_eq!(machine.command(Command::NOTF_COAL_TX_SET, calls(u32::MAX, u32::MAX).as_bytes()), OK);
        assert_eq!(machine.called(256), [256, 2]);
    });
}

#[test]
fn what_was_not_agreed_or_has_no_room_for_an_answer_is_refused() {
    each_machine(&["--backend=loop"], 1, COMMANDS | F_NOTF_COAL, |machine| {
        assert_eq!(machine.told(RX), None);
        assert_eq!(machine.command(Command::NOTF_COAL_TX_SET, calls(5, 200).as_bytes()), OK);
    });
    each_machine(&["--backend=loop"], 1, COMMANDS | F_VQ_NOTF_COAL, |machine| {
        assert_eq!(machine.command(Command::NOTF_COAL_TX_SET, calls(5, 200).as_bytes()), ERR);
        assert_eq!(machine.command(Command::NOTF_COAL_VQ_GET, &[0; 4]), ERR, "room for a byte");
        assert_eq!(machine.told(TX), Some(calls(0, 0)));
        assert_eq!(machine.told(QueueId(2)), None, "is for commands");
    });
}
