//! The data half: commands and their answers. The guest's bytes are hostile; the agent judges them.

use std::sync::Arc;

use outboard_device::{Chain, Cx, Flow, Handler};

use crate::shared::{Inner, Shared};

/// The most that is read of a command: more than any has.
const LONGEST_COMMAND: usize = 256;
/// The most that is answered, however much room there is.
const LONGEST_ANSWER: usize = 4096;

/// The data half of the SCMI device.
pub struct ScmiHandler {
    shared: Arc<Shared>,
    answer: Vec<u8>,
}

impl ScmiHandler {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, answer: Vec::with_capacity(LONGEST_ANSWER) }
    }
}

impl Handler for ScmiHandler {
    type Op = ();

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        let mut command = [0; LONGEST_COMMAND];
        let len = chain.readable_len().min(LONGEST_COMMAND);
        let Some(command) = command.get_mut(..len) else { return cx.done(chain) };
        let room = chain.writable_len().min(LONGEST_ANSWER);
        if chain.read_exact(command).is_ok() {
            let mut inner = self.shared.lock();
            let Inner { agent, host, notices } = &mut *inner;
            agent.command(command, room, host, (&mut self.answer, notices));
            notices.clear();
            let _ = host.take_set();
        }
        if let Err(error) = chain.write_all(&self.answer) {
            cx.warn("an answer did not fit", error);
        }
        cx.done(chain)
    }
}
