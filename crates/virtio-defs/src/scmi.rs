//! SCMI device (VIRTIO 1.3, 5.17): messages of Arm's System Control and Management Interface on two queues.

/// Bit 0: the device sends notifications and late answers in the event queue.
pub const VIRTIO_SCMI_F_P2A_CHANNELS: u64 = 1 << 0;
/// Bit 1: statistics lie in a region of shared memory.
pub const VIRTIO_SCMI_F_SHARED_MEMORY: u64 = 1 << 1;

/// The command queue: a request to be read, and behind it room for its answer.
pub const CMDQ: u16 = 0;
/// The event queue: room for what the device has to tell.
pub const EVENTQ: u16 = 1;
