//! The table of faults. [`super`] says how to add one.

use super::Entry;

/// Makes the enum and the table out of one list.
macro_rules! faults {
    ($($fault:ident: $does:literal, [$($fails:literal),* $(,)?];)*) => {
        /// Something to do wrong. What exactly, the table says.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Fault { $($fault),* }

        pub(super) const TABLE: &[Entry] = &[
            $(Entry { fault: Fault::$fault, variant: stringify!($fault), does: $does, fails: &[$($fails),*] }),*
        ];
    };
}

faults! {
    // Framing.
    ReplyKeepsNeedReply: "Replies carry the NEED_REPLY flag too.", ["framing.reply-header"];
    ReplyWithoutFlag: "Replies lack the REPLY flag.", ["framing.reply-header"];
    ReplyVersionZero: "Replies carry version 0.", ["framing.reply-header"];
    ReplyIdWrong: "Replies carry the next message's code.", ["framing.reply-header"];
    ReplyTooLong: "Replies are four bytes longer than they have to be.", ["framing.reply-header"];
    ReplyTooShort: "Replies are cut to four bytes.", ["framing.reply-header"];
    ReplyInPieces: "The payload of a reply comes 20 ms after its header.", ["framing.reply-whole"];
    AnswerMissing: "Messages with an answer of their own get none, but for those that ask for features.",
        ["negotiation.features-any-time", "memory.guest-address-zero", "memory.high-addresses",
         "memory.identity", "memory.mmap-offset"];
    AckNever: "Nothing is acknowledged.", ["framing.dribbled-payload"];
    AckUnasked: "Once REPLY_ACK is agreed on, everything is acknowledged, asked or not.",
        ["framing.dribbled-payload", "framing.no-ack-unasked"];
    AckWithoutAgreement: "NEED_REPLY is honoured without REPLY_ACK.", ["framing.no-ack-before-agreement"];
    AckFromNextMessage: "The message that agrees on REPLY_ACK is not acknowledged itself.",
        ["framing.ack-of-agreement"];
    AckTwice: "Each acknowledgement is sent twice.",
        ["framing.dribbled-payload", "negotiation.back-channel", "negotiation.back-channel-again",
         "negotiation.owner-late"];
    AckBesidesAnswer: "An answer with data is followed by an acknowledgement if NEED_REPLY is set.",
        ["framing.one-reply"];
    AckAlwaysZero: "Refusals are acknowledged as success.",
        ["framing.unknown-nack", "negotiation.back-channel-without-fd", "config.write-read-only"];
    AckAlwaysNonzero: "Success is acknowledged as a refusal.",
        ["framing.ack-form", "framing.dribbled-payload"];
    RefusalCloses: "A refusal ends the connection although it could be told.", ["framing.unknown-nack"];
    UnknownIgnored: "An unknown message with NEED_REPLY is passed over in silence.", ["framing.unknown-nack"];
    UnknownAcked: "An unknown message is acknowledged as done.", ["framing.unknown-nack"];
    UnknownCloses: "An unknown message with NEED_REPLY ends the connection.", ["framing.unknown-nack"];
    UnknownCrashes: "An unknown message ends the process.",
        ["framing.unknown-nack", "framing.unknown-silent", "framing.request-zero"];
    VersionUnchecked: "A message of any version is accepted.", [];
    StrayReplyAccepted: "A message with the REPLY flag is taken as a request.", [];
    ReadsOnce: "A message that arrives in pieces ends the connection.",
        ["framing.dribbled", "framing.dribbled-payload"];
    CoalescedLost: "Of messages that arrive together only the first is seen.",
        ["framing.dribbled", "framing.coalesced", "framing.pipelined", "negotiation.owner-first"];
    StallEndless: "A message that is begun and not ended is waited for without end.", [];
    OversizedCrashes: "A header that announces too much ends the process.", ["framing.oversized"];
    OversizedAwaited: "A payload of any size is waited for.", ["framing.oversized"];
    ShortPayloadAccepted: "A payload that is too short is taken as zeroes.", ["framing.short-payload"];
    ShortPayloadCrashes: "A payload that is too short ends the process.",
        ["framing.short-payload", "hostile.messages", "hostile.messages-on-running-rings"];
    LongPayloadAccepted: "What is too much in a payload is passed over.", [];
    CutMessageCrashes: "A connection that ends within a message ends the process.",
        ["framing.cut-header", "framing.cut-payload", "lifecycle.gone-within-messages"];
    FdsLeaked: "Descriptors that nobody asked for stay open.", ["framing.stray-fds", "framing.many-fds"];
    FdCountIgnored: "Descriptors beyond those that belong there are closed and passed over.",
        ["memory.too-many-descriptors"];
    GatesOpen: "Messages are carried out whose feature is not agreed on.", [];

    // Negotiation.
    OfferWithoutVersion1: "VIRTIO_F_VERSION_1 is not on offer.", ["negotiation.version-1"];
    OfferWithoutProtocol: "VHOST_USER_F_PROTOCOL_FEATURES is not on offer.",
        ["setup.libkrun", "setup.openvmm"];
    OfferChangesWithConnection: "Every other connection gets fewer virtio features on offer.",
        ["negotiation.features-constant", "negotiation.features-any-time"];
    OfferIommuAlone: "VIRTIO_F_ACCESS_PLATFORM is on offer without the back channel.",
        ["negotiation.iommu-needs-back-channel"];
    OfferChanges: "The virtio features on offer change during the connection.",
        ["negotiation.features-any-time", "negotiation.features-again", "setup.qemu-restart"];
    OfferUnimplemented: "VIRTIO_F_ACCESS_PLATFORM is on offer, and not implemented.", [];
    OfferInband: "INBAND_NOTIFICATIONS is on offer, and not implemented.", [];
    OfferSendFdAlone: "BACKEND_SEND_FD is on offer without BACKEND_REQ, which it needs.",
        ["negotiation.dependencies"];
    ProtocolOfferChanges: "The protocol features on offer change during the connection.", ["negotiation.protocol-constant"];
    ProtocolNeedsFeatures: "SET_PROTOCOL_FEATURES before SET_FEATURES is refused.",
        ["negotiation.features-any-time", "memory.one-file", "negotiation.protocol-before-features"];
    ProtocolOutlivesConnection: "The next connection finds the protocol features of the last one agreed on.", ["negotiation.per-connection"];
    ProtocolOnlyOnce: "SET_PROTOCOL_FEATURES is refused the second time.",
        ["negotiation.protocol-again", "setup.qemu-per-pair", "setup.spdk"];
    UnofferedAccepted: "SET_FEATURES accepts bits that were not offered.", ["negotiation.unoffered-feature"];
    UnofferedProtocolAccepted: "SET_PROTOCOL_FEATURES accepts bits that were not offered.",
        ["negotiation.unoffered-protocol-feature"];
    FeaturesOnlyOnce: "Only the first SET_FEATURES has an effect.",
        ["setup.firmware-then-kernel", "setup.openvmm"];
    FeaturesEnable: "SET_FEATURES enables all rings also with bit 30.",
        ["setup.alioth", "setup.libkrun", "lifecycle.rings-start-fresh"];
    FeaturesDisable: "SET_FEATURES with bit 30 disables all rings.", ["setup.qemu-per-pair"];
    FeaturesRestartRings: "Any SET_FEATURES restarts the rings.", [];
    NoBit30StaysDisabled: "SET_FEATURES without bit 30 does not enable the rings.",
        ["setup.without-protocol-features"];
    OwnerNeedsProtocol: "SET_OWNER before SET_PROTOCOL_FEATURES ends the connection.", ["negotiation.owner-first"];
    FeaturesNeedProtocol: "SET_FEATURES before SET_PROTOCOL_FEATURES ends the connection.", ["negotiation.features-before-protocol"];
    OwnerOnlyOnce: "A second SET_OWNER ends the connection.",
        ["negotiation.owner-twice", "negotiation.reset-owner", "setup.dpdk-reset-owner"];
    QueueCountWrong: "GET_QUEUE_NUM answers one more than there are.",
        ["setup.alioth", "setup.enable-unconfigured", "blk.num-queues"];
    QueueCountZero: "GET_QUEUE_NUM answers 0.", ["negotiation.queue-num", "setup.rust-vmm"];
    QueueCountGrows: "GET_QUEUE_NUM answers more with each message.",
        ["negotiation.queue-num", "setup.alioth", "setup.enable-unconfigured"];
    QueueCountNeedsMq: "GET_QUEUE_NUM is refused without MQ.", ["negotiation.queue-num-unagreed"];
    BadRingAcked: "Messages for rings that there are not are acknowledged as done.", ["hostile.ring-index"];
    BadRingCrashes: "A message for a ring that there is not ends the process.", ["hostile.ring-index"];
    RingIndexTruncated: "Only the low eight bits of a ring's index count.", ["hostile.ring-index"];
    ResetIgnored: "RESET_DEVICE, and status 0, do nothing.", ["state.reset-stops", "state.reset-again"];
    ResetForgetsPlace: "A reset forgets where rings stood, for whoever asks then.", ["setup.qemu-pause"];
    ResetKeepsEnabled: "A reset leaves rings enabled.", ["state.reset-disables"];
    ResetDropsMemory: "A reset forgets the memory table.", ["memory.slots-survive-reset"];
    ResetDropsProtocol: "A reset forgets the protocol features.",
        ["memory.slots-survive-reset", "setup.dpdk", "state.reset-keeps-agreement"];
    StatusForgotten: "GET_STATUS answers 0.", ["state.status"];
    StatusZeroKeepsRings: "SET_STATUS 0 resets nothing.", ["state.status-zero"];

    // Memory.
    TableOfFour: "SET_MEM_TABLE takes four regions at most.",
        ["memory.eight-regions", "memory.buffer-across-regions"];
    TableInParts: "A table of which a part is wrong is in force up to that part.", ["memory.empty-region"];
    TableCountUnchecked: "SET_MEM_TABLE takes as many regions as the payload has, whatever the count.",
        ["memory.count-beyond-payload"];
    TruncatedTableAccepted: "Of a table that is cut short the whole regions are taken.",
        ["memory.truncated-table"];
    TableStopsRings: "SET_MEM_TABLE stops the rings that run.",
        ["memory.table-while-running", "setup.dpdk"];
    TableWithoutFdsAccepted: "SET_MEM_TABLE takes as many regions as there are descriptors.",
        ["memory.too-few-descriptors"];
    TableAdds: "SET_MEM_TABLE adds to the old table.", ["memory.table-replaced"];
    TableRefusedWithSlots: "SET_MEM_TABLE is refused once CONFIGURE_MEM_SLOTS is agreed on.",
        ["memory.eight-regions", "memory.ring-parts-apart", "memory.size-unaligned", "memory.slots-and-table",
         "memory.survives-stop", "memory.table-while-running", "memory.truncated-table"];
    SlotsTooFew: "GET_MAX_MEM_SLOTS answers 4.", ["memory.slots-enough"];
    FewSlots: "ADD_MEM_REG takes eight regions, whatever GET_MAX_MEM_SLOTS says.", ["memory.slots-full"];
    OverlapAccepted: "Regions may overlap.", ["memory.overlap", "memory.overlapping-slot"];
    BadRegionAccepted: "A region that cannot be mapped (empty, overflowing, beyond its file) is accepted.",
        ["memory.empty-region", "memory.address-overflow", "memory.unmappable-descriptor"];
    OffsetRoundedDown: "A region is mapped from the start of the page that its offset lies in.",
        ["memory.mmap-offset-unaligned"];
    OffsetIgnored: "A region is mapped from the start of its file.",
        ["memory.one-file", "memory.mmap-offset"];
    SizeRoundedDown: "A region ends with its last whole page.", ["memory.size-unaligned"];
    AddressZeroRefused: "A region at guest address 0 is refused.", ["memory.guest-address-zero"];
    HighAddressRefused: "A region beyond 2^47 is refused.", ["memory.high-addresses"];
    IdentityRefused: "A region whose two addresses are the same is refused.", ["memory.identity"];
    ShortFileCrashes: "A region beyond its file ends the process.", ["memory.beyond-file"];
    TruncationCrashes: "A file that is cut short under its mapping ends the process.",
        ["memory.file-truncated"];
    UnalignedRegionRefused: "A region whose offset is not that of a page is refused.", [];
    RemovalIgnored: "REM_MEM_REG does nothing.",
        ["memory.slots-while-running", "memory.slots-split-and-merge", "memory.slots-under-ring"];
    RemovalNeedsOffset: "REM_MEM_REG compares the file offset too.", ["memory.slots-removal-by-address"];
    RemovalRefusesFd: "REM_MEM_REG with a descriptor is refused.",
        ["memory.slots-stray-descriptor", "setup.libblkio"];
    UnknownRemovalAcked: "REM_MEM_REG of a region that there is not is acknowledged as done.",
        ["memory.slots-unknown-removal"];
    MappingsLeaked: "Memory stays mapped when its table is replaced, and when the connection ends.",
        ["lifecycle.mappings"];
    RingsKeepOldMemory: "Running rings go on in the memory of the old table.", [];
    RingInOneRegion: "A ring does not start unless its parts are in one region.",
        ["memory.ring-parts-apart"];
    RemovalStopsRings: "A ring does not go on when its memory was removed and is back.",
        ["memory.slots-under-ring"];
    StraddlingRefused: "A buffer in two neighbouring regions stops its ring.",
        ["memory.buffer-across-regions"];

    // Setting rings up, stopping them.
    NeedsKick: "A ring that can run is not looked at before the next kick.",
        ["ring.disabled-keeps-requests", "setup.cloud-hypervisor-pause", "setup.firecracker"];
    EarlyRequestsSkipped: "What is available when a ring starts is skipped.",
        ["setup.qemu-per-pair", "ring.requests-before-start", "inflight.unused-records"];
    KickNeedsAddress: "SET_VRING_KICK before SET_VRING_ADDR is refused.",
        ["setup.alioth", "setup.kick-first"];
    PollingRefused: "SET_VRING_KICK without a descriptor is refused.", [];
    AddressNeedsMemory: "SET_VRING_ADDR before the memory table is refused.", [];
    AddressResetsRing: "SET_VRING_ADDR on a running ring sets it back to its start.", ["ring.call-at-event"];
    MisalignedRingAccepted: "The parts of a ring may lie at any address.", [];
    RingSizeUnchecked: "SET_VRING_NUM accepts any size.", ["ring.bad-sizes"];
    OddRingSizeRefused: "SET_VRING_NUM takes powers of two only, for packed rings too.", ["ring.odd-sizes"];
    RingSizeLimited: "SET_VRING_NUM refuses more than 256.", [];
    RingAlignedTo64: "A ring whose parts are not at multiples of 64 cannot start.", ["ring.tight"];
    CallNeeded: "A ring without a descriptor for calls stops at its first call.", ["ring.without-call-fd"];
    PollingIgnored: "SET_VRING_KICK without a descriptor is accepted, and the ring is not polled.",
        ["ring.without-kick-fd"];
    DisabledForgets: "Requests made while a ring is disabled are dropped when it is enabled.",
        ["ring.disabled-keeps-requests"];
    StopStopsAll: "GET_VRING_BASE stops the other rings too.", ["ring.two-rings"];
    FirstCallKept: "Only the first SET_VRING_CALL of a ring has an effect.",
        ["setup.qemu-mask", "setup.call-replaced"];
    CallNeedsFeatures: "SET_VRING_CALL before SET_FEATURES ends the connection.",
        ["setup.qemu", "setup.call-first"];
    ErrorNeedsEarly: "SET_VRING_ERR on a running ring ends the connection.", ["setup.error-late"];
    ChannelOnlyOnce: "A second SET_BACKEND_REQ_FD ends the connection.", ["setup.cloud-hypervisor"];
    NeedsDriverOk: "With STATUS, what is kicked for before DRIVER_OK waits for another kick.", ["state.status-late"];
    EarlyEnableLost: "SET_VRING_ENABLE before SET_VRING_ADDR has no effect.",
        ["setup.qemu-per-pair", "setup.enable-first"];
    EarlyEnableRefused: "SET_VRING_ENABLE before SET_VRING_ADDR is refused.", ["setup.qemu-per-pair"];
    EnableUnchecked: "SET_VRING_ENABLE accepts any number.", [];
    DisabledServed: "Disabled rings are served.", ["net.disabled", "setup.alioth", "setup.libkrun"];
    BaseIgnored: "SET_VRING_BASE has no effect.", ["ring.call-at-event", "ring.base-midway"];
    BaseNeedsEarly: "SET_VRING_BASE behind SET_VRING_ADDR ends the connection.",
        ["setup.base-after-address"];
    OldBaseKept: "SET_VRING_BASE of a ring that has a base has no effect.", ["ring.restart-other"];
    StopNeedsStart: "GET_VRING_BASE of a ring that is not started ends the connection.",
        ["ring.stop-never-started"];
    StopDoesNotStop: "A ring goes on after GET_VRING_BASE.",
        ["ring.stopped-untouched", "ring.restart-other", "setup.spdk"];
    StopDoesNotDrain: "Requests take 200 ms, and GET_VRING_BASE forgets those that are not done.",
        ["ring.stop-drains"];
    StopDisables: "GET_VRING_BASE disables the ring too.", ["setup.enable-remembered"];
    StopDropsMemory: "The last GET_VRING_BASE forgets the memory table.",
        ["memory.survives-stop", "setup.qemu-restart"];
    StopBaseWrong: "GET_VRING_BASE answers one more than it has to.", ["ring.stop-base", "ring.stop-drains"];
    StopBaseZero: "GET_VRING_BASE always answers 0.",
        ["setup.crosvm", "setup.enable-remembered", "ring.stop-base", "ring.stop-never-started",
         "ring.restart", "net.stop"];
    StopIndexWrong: "GET_VRING_BASE names the next ring in its answer.",
        ["setup.qemu", "setup.base-after-address", "setup.call-first", "setup.cloud-hypervisor",
         "setup.error-late", "setup.libblkio"];

    // Rings.
    UsedIndexReset: "The used index is set to 0 when a split ring starts.",
        ["ring.call-at-event", "ring.base-midway", "ring.restart", "ring.stop-drains",
         "ring.used-index-kept"];
    UsedIndexForgotten: "Completed requests are not shown to the driver.", ["ring.sample"];
    UsedIndexByOne: "The used index of a split ring moves by one for a whole batch.",
        ["ring.full", "ring.merged", "ring.one-kick-for-many", "ring.sizes", "ring.tight"];
    UsedIndexOf15Bits: "The used index of a split ring goes round at 32768.",
        ["ring.long-run", "ring.base-midway"];
    UsedRingOf256: "Used elements of a split ring go round after 256.", ["ring.sizes", "ring.largest"];
    OneRequestPerKick: "Each kick is good for one request.", ["ring.full", "ring.one-kick-for-many"];
    IdleKicksCrash: "The tenth kick in a row for nothing ends the process.", ["ring.spurious-kicks"];
    LongChainsRefused: "A chain of more than five buffers stops its ring.",
        ["ring.small-pieces", "ring.full-chain", "blk.header-split", "blk.odd-segments"];
    LinksIgnored: "The descriptors of a split chain are taken one after another, as they stand in the table.",
        ["ring.any-order"];
    UsedTwice: "The last request of each batch is returned twice.", ["ring.sample"];
    UsedIdWrong: "Requests are returned under another number.",
        ["ring.sample", "ring.any-order", "ring.indirect-write-flag", "ring.spurious-kicks",
         "ring.without-call-fd", "blk.many-at-once"];
    UsedInReverse: "Requests of a batch are returned in reverse order.", ["ring.in-order"];
    UsedLenZero: "The used length is always 0.", ["ring.sample", "rng.length"];
    UsedLenTooLong: "The used length is more than there was room for.",
        ["ring.sample", "ring.used-length", "rng.length"];
    UsedLenCountsReadable: "The used length counts what was read too.",
        ["ring.two-rings", "blk.write-length"];
    NoInterruptIgnored: "The driver is called although it wants no calls.", ["ring.call-suppressed"];
    UsedEventIgnored: "With EVENT_IDX the driver is called for every batch.", ["ring.call-at-event"];
    UsedEventOffByOne: "With EVENT_IDX the driver is called one request too late.",
        ["ring.calls-when-wanted-event-idx", "ring.call-at-event"];
    NeverCalls: "The driver is never called.",
        ["ring.calls-when-wanted", "ring.calls-when-wanted-event-idx"];
    AvailEventStuck: "With EVENT_IDX the driver is asked to kick for a request that is far away.",
        ["ring.kicks-when-wanted-event-idx", "ring.device-event-area"];
    KicksSuppressed: "Without EVENT_IDX the driver is told not to kick, for ever.",
        ["ring.kicks-when-wanted", "net.rx-refilled"];
    DescriptorsOverwritten: "The length of a split ring's descriptors is overwritten with 0.", [];
    PackedWrapWrong: "Descriptors of a packed ring are marked used for the wrong lap.", ["ring.sample"];
    PackedWriteFlagMissing: "Used descriptors of a packed ring never have the WRITE flag.", [];
    PackedIdOfFirst: "The id of a packed chain is taken from its first descriptor.", [];
    PackedChainsCountOne: "The used position of a packed ring moves by one for a chain of several.",
        ["ring.small-pieces", "ring.full-chain", "ring.indirect", "ring.sample"];
    IndirectTakenAsBuffer: "An indirect table is taken as a buffer.",
        ["ring.indirect", "ring.indirect-longer-than-ring", "ring.indirect-behind-direct"];
    IndirectFirstOnly: "Only the first entry of an indirect table is seen.", ["ring.indirect"];
    IndirectLimitedToRing: "An indirect table longer than the ring stops the ring.",
        ["ring.indirect-longer-than-ring"];
    IndirectOnlyAlone: "An indirect descriptor behind others stops the ring.",
        ["ring.indirect-behind-direct"];
    IndirectWriteRefused: "An indirect descriptor with the write flag stops its ring.",
        ["ring.indirect-write-flag"];
    EmptyBufferRefused: "A buffer of length 0 stops the ring.", [];

    // Hostile drivers.
    EmptyBufferCrashes: "A buffer of length 0 ends the process.", ["hostile.empty-buffers"];
    BadAddressCrashes: "A buffer outside of memory ends the process.",
        ["hostile.buffer-unmapped", "hostile.buffer-null", "hostile.buffer-overflow",
         "hostile.buffer-straddles-end", "hostile.indirect-bad-entry", "hostile.no-error-fd",
         "hostile.ring-garbage"];
    BadAddressSkipped: "A buffer outside of memory is left out.", [];
    BadHeadCrashes: "A head that is not in the descriptor table ends the process.",
        ["hostile.head-out-of-range"];
    BadLinkCrashes: "A link that leads out of the descriptor table ends the process.",
        ["hostile.link-out-of-range"];
    AvailJumpAccepted: "An available index that is more than a ring ahead is followed.", [];
    LoopsForEver: "A chain without an end is followed without end.",
        ["hostile.chain-loop", "hostile.chain-endless", "hostile.indirect-loop"];
    AnyOrderAccepted: "Readable buffers may follow writable ones.", [];
    IndirectNestedAccepted: "An indirect table may contain another.", ["hostile.indirect-nested"];
    IndirectNextAccepted: "An indirect descriptor may have a next one.", [];
    IndirectLengthIgnored: "An indirect table may be of any length.", [];
    IndirectUnagreedAccepted: "Indirect descriptors are served without VIRTIO_F_INDIRECT_DESC.", [];
    ErrorSilent: "A faulty ring does not signal its error descriptor.", ["hostile.error-told"];
    RingErrorStopsAll: "A faulty ring stops the others too.", ["hostile.neighbour"];
    RingErrorCrashes: "A faulty ring ends the process.",
        ["hostile.head-out-of-range", "hostile.indirect-unagreed", "hostile.indirect-unmapped",
         "hostile.length-max", "hostile.messages-on-running-rings", "hostile.chain-endless",
         "hostile.avail-jump", "hostile.avail-backwards", "hostile.readable-after-writable",
         "hostile.indirect-nested", "hostile.indirect-next", "hostile.indirect-length",
         "hostile.indirect-loop", "hostile.ring-garbage", "hostile.ring-changing", "hostile.no-error-fd"];
    RingErrorForEver: "A ring that was faulty cannot be started again.",
        ["hostile.head-out-of-range", "hostile.avail-backwards", "hostile.avail-jump",
         "hostile.indirect-length", "hostile.indirect-next", "hostile.readable-after-writable",
         "hostile.ring-misaligned", "hostile.ring-unmapped"];
    BadStartCrashes: "A ring that cannot start ends the process.",
        ["hostile.ring-misaligned", "inflight.garbage", "inflight.other-size"];
    RingOutsideCrashes: "A ring that is not in guest memory, or not any more, ends the process.",
        ["hostile.ring-unmapped", "hostile.memory-removed"];
    RingOverlapCrashes: "A used ring at the place of another part ends the process.",
        ["hostile.ring-overlapping"];
    EarlyKickCrashes: "SET_VRING_KICK of a ring without addresses ends the process.",
        ["hostile.kick-before-setup"];
    OddFlagsCrash: "A packed descriptor with flags that there are not ends the process.",
        ["hostile.packed-flags"];
    OddIdCrashes: "A packed buffer id behind the end of the ring ends the process.", ["hostile.packed-id"];
    ShortRequestCrashes: "A request for the disk that is shorter than its header ends the process.",
        ["hostile.short-request"];
    CallsUnchecked: "Calls wait where they would block, and the process ends where they fail.",
        ["hostile.call-closed-pipe", "hostile.call-full", "hostile.call-full-blocking"];
    ShortKickCrashes: "A kick of less than eight bytes ends the process.", ["hostile.kick-pipe"];
    KickFileCrashes: "A regular file for a kick descriptor ends the process.", ["hostile.kick-file"];

    // Configuration space.
    ConfigAnswerShort: "GET_CONFIG answers no more bytes than there are.", ["config.beyond-end"];
    ConfigSizeWrong: "GET_CONFIG answers with another size than it was asked for.", ["config.sizes"];
    ConfigSizeCrashes: "GET_CONFIG that announces more than it has ends the process.",
        ["config.size-beyond-payload"];
    ConfigOddSizeRefused: "GET_CONFIG of a size that is no multiple of four is refused.",
        ["config.sizes", "config.windows"];
    ConfigNeedsStop: "GET_CONFIG is refused while a ring runs.",
        ["config.while-running", "config.while-busy"];
    ConfigOffsetIgnored: "GET_CONFIG reads from the start, whatever the offset.", ["config.windows"];
    ConfigOffsetNotEchoed: "GET_CONFIG answers with another offset.", ["config.windows"];
    ConfigNotPadded: "GET_CONFIG refuses to read beyond the end of what there is.",
        ["config.beyond-end", "setup.spdk"];
    ConfigPaddedWithOnes: "GET_CONFIG fills up with ones.", ["config.beyond-end"];
    ConfigRangeCloses: "GET_CONFIG beyond all bounds ends the connection.",
        ["config.behind-end", "config.overflow"];
    ConfigFlagsRefused: "GET_CONFIG with flags is refused.", ["config.flags", "setup.firecracker"];
    ConfigNeedsFeatures: "GET_CONFIG before SET_FEATURES is refused.", ["config.before-features"];
    ConfigUnstable: "The configuration is another with each message.",
        ["config.stable", "config.while-running"];
    ConfigWriteIgnored: "SET_CONFIG is acknowledged and does nothing.", ["blk.writeback", "config.write"];
    ConfigWriteAnywhere: "SET_CONFIG is acknowledged also where the driver may not write.",
        ["config.write-read-only"];
    ConfigWriteExact: "SET_CONFIG with more payload than it writes is refused.",
        ["config.write-long-payload"];
    ConfigWriteCrashes: "SET_CONFIG behind the end ends the process.", ["config.write-beyond-end"];
    ChangeUntold: "CONFIG_CHANGE_MSG is never sent.", ["config.change-told"];
    ChangeToldAtOnce: "CONFIG_CHANGE_MSG is sent although no ring runs, or nobody agreed to it.",
        ["config.change-told"];

    // Dirty log.
    LogDataMissing: "Written buffers are not logged.", ["log.data", "log.while-running"];
    LogFirstPageOnly: "Of each written buffer the first page is logged.", ["log.data"];
    LogFirstBufferOnly: "Of each request the first written buffer is logged.", ["log.data"];
    LogUsedMissing: "Writes to the used ring are not logged.", ["log.used-ring"];
    LogUsedElementsMissing: "Used elements, or descriptors, are not logged.", ["log.used-ring"];
    LogUsedIndexMissing: "The used index is not logged.", ["log.used-ring"];
    LogEventMissing: "The device's event index, or area, is not logged.", ["log.event-index"];
    LogShifted: "The page behind the right one is logged.", ["log.size-unaligned", "log.used-ring"];
    LogAfterPublishing: "Buffers are logged 50 ms after the driver got them.", [];
    LogAlways: "Written buffers are logged without VHOST_F_LOG_ALL.", [];
    LogNeverReplaced: "Only the first SET_LOG_BASE has an effect.", ["log.replaced"];
    LogOffsetIgnored: "The log is taken to begin with its file.", ["log.offset"];
    LogAnswerMissing: "SET_LOG_BASE is acknowledged, if asked for, but not answered.", ["log.answered"];
    LogAnsweredAlways: "SET_LOG_BASE is answered without LOG_SHMFD, too.", ["log.without-descriptors"];
    LogBadCrashes: "A log that cannot be mapped ends the process.", ["log.wrong"];
    LogShortCrashes: "A page that the log has no bit for ends the process.", ["log.too-short"];
    LogFdCrashes: "SET_LOG_FD ends the process.", ["log.notifier"];

    // Requests in flight.
    InflightTooSmall: "GET_INFLIGHT_FD makes a buffer of a quarter of the size.", ["inflight.buffer"];
    InflightNotZeroed: "GET_INFLIGHT_FD makes a buffer of ones.", ["inflight.zeroed"];
    InflightWithoutFd: "GET_INFLIGHT_FD answers without a descriptor.", ["inflight.buffer"];
    InflightAnswerShort: "GET_INFLIGHT_FD answers with 20 bytes.", ["inflight.buffer"];
    InflightShapeForgotten: "GET_INFLIGHT_FD answers 0 for rings and ring size.", [];
    InflightSizeUnchecked: "SET_INFLIGHT_FD accepts a buffer that is too small.", ["inflight.too-small"];
    InflightOffsetIgnored: "SET_INFLIGHT_FD takes the buffer to begin with its file.", [];
    InflightUnused: "Buffers are made and taken, and not used.", ["inflight.header", "inflight.resubmit"];
    InflightUnrecorded: "Requests are not recorded.", [];
    InflightForgotten: "What a predecessor recorded is forgotten.", ["inflight.out-of-order"];
    InflightNotCleared: "Records of completed requests stay.", ["inflight.cleared", "inflight.kill"];
    InflightUsedIndexStale: "The used index of the records does not follow the ring.",
        ["inflight.used-index"];
    InflightBatchUnlinked: "The last batch of a split ring is not linked.", [];
    InflightBatchRepeated: "What a predecessor returned without clearing its record is served again.",
        ["inflight.last-batch"];
    InflightCounterMissing: "The order of requests is not recorded.", [];
    InflightOrderLost: "Requests of a predecessor are served in reverse order.", [];
    InflightNeedsFeatures: "GET_INFLIGHT_FD before SET_FEATURES is refused.", ["inflight.early"];
    InflightOddCrashes: "GET_INFLIGHT_FD for rings that cannot be ends the process.",
        ["inflight.odd-requests"];
    InflightLeftAtStop: "When a split ring stops, a request is recorded as in flight.",
        ["inflight.restart", "inflight.cleared"];
    InflightRefusalCrashes: "SET_INFLIGHT_FD of a buffer that cannot be taken ends the process.",
        ["inflight.short-file"];

    // Device state.
    StateAnswerZero: "SET_DEVICE_STATE_FD announces a descriptor that does not come.", ["state.save"];
    StateDirectionUnchecked: "SET_DEVICE_STATE_FD accepts any direction.", ["state.wrong-direction"];
    StatePhaseUnchecked: "SET_DEVICE_STATE_FD accepts any phase.", ["state.wrong-direction"];
    StateWhileRunning: "SET_DEVICE_STATE_FD is accepted while rings run.", [];
    StateSaveOpen: "The end of a state is not shown by closing its descriptor.", ["state.save"];
    StateSaveTruncated: "Half of the state is saved.", ["state.load"];
    StateLoadIgnored: "A state is read and not taken over.", [];
    StateCorruptAccepted: "Any bytes are accepted as a state.", ["state.load-corrupt"];
    StateCheckAlwaysZero: "CHECK_DEVICE_STATE always answers 0.", ["state.load-corrupt"];
    StateCheckAlwaysFails: "CHECK_DEVICE_STATE always answers 1.", ["state.save", "state.load"];
    StateCheckCrashes: "CHECK_DEVICE_STATE without a transfer ends the process.", ["state.check-alone"];
    StateUnreadCrashes: "A state that nobody reads ends the process.", ["state.abandoned"];
    StateOnlyOnce: "A second transfer is refused.", ["state.save-again"];

    // Connections.
    ExitsAtDisconnect: "The program ends with its first connection.", [];
    DisconnectCrashes: "A front end that goes while a ring runs ends the process.", ["lifecycle.gone-at-each-step", "lifecycle.gone-with-requests", "lifecycle.next-front-end"];
    QuietConnectionCrashes: "A front end that goes without a word ends the process.",
        ["lifecycle.quick-connects", "lifecycle.gone-at-each-step"];
    UnheardAnswerCrashes: "An answer that nobody takes ends the process.",
        ["lifecycle.gone-unheard", "lifecycle.second-front-end"];
    HalfCloseIgnored: "A connection that the front end has closed for writing stays open.",
        ["lifecycle.half-close"];
    ReplacedFdsLeaked: "A ring's descriptors that are replaced stay open.", ["lifecycle.replaced-fds"];
    ConnectionLeaked: "The socket of each connection stays open in a copy.",
        ["lifecycle.half-close", "lifecycle.descriptors"];
    ThreadLeaked: "Each connection leaves a thread behind.", ["lifecycle.threads"];
    SecondConnectionDisturbs: "A front end that connects ends the connection of another.",
        ["lifecycle.second-front-end"];
    DisconnectDropsRequests: "Requests that were taken are not completed when the connection ends.", [];

    // The program.
    TermIgnored: "SIGTERM does nothing.", ["program.sigterm", "program.sigterm-connected"];
    ExitStatusWrong: "The program ends with status 3 when it is told to end.",
        ["program.fd-ends", "program.sigterm", "program.sigterm-connected"];
    SocketLeftBehind: "The socket's path is not removed at the end.", [];
    StaleSocketRefused: "A socket that a dead program left behind is in the way.", ["program.stale-socket"];
    SocketStolen: "Whatever is at the socket's path is removed.", ["program.file-in-the-way"];
    StdoutNoise: "Something is printed on standard output.", ["program.quiet-stdout"];
    CapabilitiesNotJson: "What --print-capabilities prints is not JSON.",
        ["program.print-capabilities", "program.print-capabilities-only"];
    CapabilitiesNeedOptions: "Asking with --print-capabilities needs the options that are required otherwise.", ["program.print-capabilities", "program.print-capabilities-alone"];
    CapabilitiesMakeSocket: "Asking with --print-capabilities makes the socket.",
        ["program.print-capabilities-only"];
    FdRefused: "An inherited socket (--fd) is refused.", ["program.fd", "program.fd-ends"];
    FdOutlived: "With --fd the program goes on when the front end is gone.", ["program.fd-ends"];
    NoSocketAccepted: "Without a socket the program ends with status 0.",
        ["program.no-socket", "program.socket-and-fd", "program.unknown-option"];
    SocketAndFdAccepted: "Options --socket-path and --fd may be given together.", ["program.socket-and-fd"];
    FailureHidden: "The program ends with status 0 when its socket cannot be made.",
        ["program.bad-socket-path"];
    Daemonizes: "The program goes on in the background, for 20 seconds.", ["program.foreground"];
    CapabilitiesCheckOptions: "Asking with --print-capabilities looks at the other options.", ["program.print-capabilities-ignores-rest"];
    OptionsUnchecked: "Unknown options are passed over.", ["program.unknown-option"];

    // The disk.
    BlkCapacityInBytes: "The capacity is given in bytes.", ["blk.capacity", "blk.write-read"];
    BlkQueuesZero: "The configuration says that there are no queues.", ["blk.config", "blk.num-queues"];
    BlkPaddingOnes: "The padding of the configuration is not zero.", ["blk.config"];
    BlkStatusMissing: "The status is not written.", ["blk.capacity", "blk.status-place", "blk.writeback"];
    BlkStatusFirst: "The status goes into the first writable byte.",
        ["blk.capacity", "blk.header-split", "blk.large-read", "blk.many-at-once", "blk.odd-segments",
         "ring.merged", "blk.status-place"];
    BlkStatusWrong: "The status is 3.", ["blk.capacity"];
    BlkStatusNotCounted: "The used length does not count the status.",
        ["blk.num-queues", "blk.range-count", "blk.range-length", "blk.status-and-length",
         "blk.write-length"];
    BlkWritesDropped: "Written data is dropped.", ["blk.write-read", "blk.discard", "blk.write-odd-segments"];
    BlkFlushFails: "A flush fails.", ["blk.flush"];
    BlkIdWrong: "The serial is of other bytes than the disk's.", ["blk.get-id"];
    BlkOutOfRangeOk: "A request beyond the end of the disk succeeds.",
        ["blk.capacity", "blk.beyond-capacity", "blk.range-beyond-capacity", "blk.sector-overflow",
         "blk.write-beyond-capacity"];
    BlkOutOfRangeCrashes: "A request beyond the end of the disk ends the process.",
        ["blk.capacity", "blk.odd-length", "blk.beyond-capacity"];
    BlkFailuresCountRoom: "A request that fails returns the length of one that succeeds.",
        ["blk.failed-length"];
    BlkReservedRefused: "A request with a number in the reserved field of its header fails.",
        ["blk.reserved-ignored"];
    BlkHeaderIsFirstBuffer: "All of the first buffer is taken for the header.",
        ["blk.header-with-data", "blk.range-buffers"];
    BlkEmptyCrashes: "A read or write of nothing ends the process.", ["blk.empty"];
    BlkWrongSideCrashes: "A read with data to read, or a write with data to write, ends the process.",
        ["blk.wrong-side"];
    BlkManySegmentsFail: "A request of more than a hundred buffers fails.", ["blk.seg-max"];
    BlkLongSegmentsFail: "A request with a buffer of more than 64 KiB fails.",
        ["blk.size-max", "blk.large-read"];
    BlkIdLengthConstant: "A serial is counted as 20 bytes, whatever there was room for.",
        ["blk.get-id-short"];
    BlkOddWritesRounded: "A write that is not whole sectors is filled up with zeroes.",
        ["blk.write-odd-length"];
    BlkUnofferedOk: "A request succeeds whose feature is not offered, and nothing is done.",
        ["blk.unoffered", "blk.zoned-unagreed"];
    BlkLifetimeReserved: "A lifetime is 12, which stands for nothing.", ["blk.lifetime"];
    BlkGrowthUnserved: "Requests beyond the old end of a disk that has grown fail.", ["blk.growth"];
    BlkOneQueue: "Only the first queue that runs is served.",
        ["blk.num-queues", "blk.queues-at-once"];
    BlkConnectionForgets: "The disk is zeroed when a front end comes.", ["blk.next-session"];
    BlkFlushIgnored: "A flush does nothing: what was written is stored when the program is told to end.",
        ["blk.flush-survives-kill"];
    BlkWriteThroughIgnored: "With the write cache switched off, what was written waits for a flush.",
        ["blk.write-through-survives-kill"];
    BlkUnflushedVolatile: "What a driver writes that cannot flush is stored when the program is told to end.",
        ["blk.unflushed-survives-kill"];
    BlkWritebackAny: "The write cache can be set to any number.", ["blk.writeback-values"];
    BlkWritebackUnflushed: "The write cache is on for a driver that cannot flush.",
        ["blk.writeback-without-flush"];
    BlkSectorWraps: "The position of a sector is computed in 64 bits, and goes round.",
        ["blk.sector-overflow"];
    BlkOddLengthCrashes: "A length that is not whole sectors ends the process.", ["blk.odd-length"];
    BlkReadsOf64K: "Of long reads only the first 64 KiB are done.", ["blk.large-read"];
    BlkReadOnlyOk: "A write to a read-only disk succeeds.", ["blk.read-only"];
    BlkReadOnlyWritten: "A write to a read-only disk fails, but is done.", ["blk.read-only-kept"];
    BlkReadOnlyRanges: "A read-only disk takes discards and other ranges.", ["blk.read-only-ranges"];
    BlkUnknownOk: "An unknown request succeeds.", ["blk.unsupported"];
    BlkUnknownFails: "An unknown request fails as an I/O error.", ["blk.unsupported"];
    BlkUnknownCrashes: "An unknown request ends the process.", ["blk.unsupported"];
    BlkRangeFlagsIgnored: "Flags of discard and write-zeroes that do not exist are passed over.",
        ["blk.range-flags"];
    BlkZeroesIgnored: "Discard and write-zeroes do nothing.", ["blk.write-zeroes"];
    BlkRangesTooLong: "Discard and write-zeroes take one sector more.", ["blk.discard"];
    BlkRangesRounded: "Ranges are rounded out to 4 KiB.",
        ["blk.discard", "blk.secure-erase", "blk.write-zeroes"];
    BlkEmptyRangeWhole: "A range of no sector is all of the disk.", ["blk.range-empty"];
    BlkFirstRangeOnly: "Of several ranges the first is done.", ["blk.range-several"];
    BlkRangeFlagsOfFirst: "Of several ranges only the first one's flags are looked at.",
        ["blk.range-flags-later"];
    BlkLongRangesCut: "Of a long range the first 256 KiB are done.", ["blk.range-longest"];
    BlkEraseIgnored: "A secure erase does nothing.", ["blk.secure-erase"];
    BlkRangeLengthIgnored: "A list of ranges of an odd length succeeds, and nothing is done.",
        ["blk.range-length"];
    BlkManyRangesCrash: "More ranges than the disk takes end the process.", ["blk.range-count"];
    BlkZoneGranularityZero: "The granularity of writes to zones is 0.", ["blk.zone-config"];
    BlkZoneReportFromStart: "A report of zones begins with the first one, whatever it is asked for.",
        ["blk.zone-report", "blk.zone-write-pointer"];
    BlkZoneReportCountsAll: "A report counts zones that there was no room for.",
        ["blk.zone-report", "blk.zone-report-room"];
    BlkZoneWriteAnywhere: "A zone is written anywhere.", ["blk.zone-write-pointer"];
    BlkZoneAppendSectorWrong: "An append answers with the start of its zone.", ["blk.zone-append"];
    BlkZoneFinishIgnored: "To finish a zone does nothing.", ["blk.zone-states"];
    BlkZoneSectorRounded: "A request for a sector within a zone is taken for the zone.",
        ["blk.zone-addresses"];
    BlkZoneNeverFull: "A zone that is written to its capacity stays open.", ["blk.zone-full"];
    BlkZoneReadsCross: "A read may go on in the next zone.", ["blk.zone-borders"];
    BlkZoneLimitsIgnored: "Any number of zones can be open, and active.", ["blk.zone-limits"];
    BlkZoneConventionalOk: "Requests that are for zones in sequence succeed for conventional ones.",
        ["blk.zone-conventional"];
    BlkZoneResetAllOne: "To reset all zones resets one.", ["blk.zone-reset-all"];

    // The network interface.
    NetMacMulticast: "The MAC address is one of many interfaces.", ["net.config-mac"];
    NetStatusOdd: "The status has a bit that stands for nothing.", ["net.config-status"];
    NetPairsZero: "The configuration says that there are no pairs of queues.", ["net.config-pairs"];
    NetMtuZero: "The configuration says that the longest packet has no bytes.", ["net.config-mtu"];
    NetDuplexOdd: "The configuration has a duplex that is none.", ["net.config-speed"];
    NetSegmentsWithoutChecksum: "Segments can be left to the device, checksums cannot.", ["net.offers-needs"];
    NetManyWithoutControl: "There are several pairs, and no control queue.", ["net.offers-needs"];
    NetSendCounted: "The used length of what is sent is its own.", ["net.tx-length"];
    NetSendWrites: "Buffers to write are written to when something is sent.", ["net.tx-writable"];
    NetHeaderMustBeMerged: "What is sent is dropped if its header is alone in a buffer.", ["net.tx-header-split"];
    NetHeaderMustBeAlone: "What is sent is dropped if its header is not alone in a buffer.",
        ["net.tx-header-merged"];
    NetHeaderMustBeWhole: "What is sent is dropped if its header is in several buffers.",
        ["net.tx-header-split"];
    NetManyBuffersDropped: "What is sent in more than twenty buffers is dropped.", ["net.tx-many-buffers"];
    NetLongDropped: "Frames of more than 1000 bytes are dropped.", ["net.tx-longest", "net.rx-merged"];
    NetShortCrashes: "What is shorter than a header ends the process when it is sent.", ["net.tx-short"];
    NetEmptyCrashes: "A header with nothing behind it ends the process when it is sent.", ["net.tx-short"];
    NetLongCrashes: "A frame that is longer than any ends the process.", ["net.tx-too-long"];
    NetBadSegmentsCrash: "Segments that cannot be made end the process.",
        ["net.header-gso-unknown", "net.header-gso-size", "net.header-gso-disagrees",
         "net.header-not-agreed", "net.tx-all-returned"];
    NetHeaderUnchecked: "The header of what is sent goes to who receives it, as it is.",
        ["net.header-flags", "net.header-csum-range", "net.header-gso-unknown", "net.header-gso-size",
         "net.header-gso-disagrees", "net.header-hdr-len", "net.header-not-agreed", "net.rx-checksum",
         "net.rx-segments"];
    NetOffloadsUnagreed: "Offloads are left to the driver whether it agreed to them or not.",
        ["net.rx-checksum", "net.rx-segments"];
    NetUnagreedDone: "Offloads are taken from the driver whether it agreed to them or not.",
        ["net.header-not-agreed"];
    NetFramesChanged: "The last byte of what is received is another one.",
        ["net.rx-length", "net.rx-merged", "net.tx-header-split", "net.tx-longest"];
    NetHeaderNotCounted: "The used length of what is received does not count the header.", ["net.rx-length"];
    NetBuffersNotCounted: "The header does not say in how many buffers a packet lies.", ["net.rx-num-buffers"];
    NetBuffersHalfFilled: "Of a packet's large buffers half is used.", ["net.rx-merged"];
    NetMergesAlways: "Packets lie in several buffers whether that was agreed to or not.",
        ["net.rx-no-merge-without-feature"];
    NetSmallBuffersUnused: "Buffers of less than 256 bytes are never used.", ["net.rx-small-buffers"];
    NetWritesOn: "The 16 bytes behind a packet are written, too.", ["net.rx-written-no-further"];
    NetNoBufferCrashes: "A packet for which there is no buffer ends the process.", ["net.rx-no-buffers"];
    NetHashHeaderShort: "The header of what is received has 12 bytes, whatever was agreed.", ["net.rx-hash"];
    NetKeyShort: "The configuration tells of a key of 16 bytes.", ["net.config-rss"];
    NetSecondPairLost: "What is sent on the second pair is dropped.", ["net.pairs"];
    NetMtuRefused: "NET_SET_MTU is refused.", ["net.mtu-message"];
    NetMtuUnchecked: "NET_SET_MTU is accepted, whatever it says.", ["net.mtu-message-wrong"];
    NetRarpRefused: "SEND_RARP is refused.", ["net.rarp-message"];
    NetControlUnacknowledged: "Commands are not acknowledged.", ["net.control-ack"];
    NetControlAlwaysOk: "All commands are acknowledged as carried out.",
        ["net.control-unknown", "net.control-short", "net.control-pairs-wrong", "net.control-values"];
    NetControlUnknownCrashes: "An unknown command ends the process.", ["net.control-unknown"];
    NetControlShortCrashes: "What is shorter than a command ends the process.", ["net.control-short"];
    NetControlOfFirstBuffer: "All of the first buffer is taken for a command.", ["net.control-buffers"];
    NetControlQueueFixed: "The control queue is behind all pairs, whatever is agreed.",
        ["net.control-place"];
    NetPairsUnchecked: "Any number of pairs can be set.", ["net.control-pairs-wrong"];
    NetPairsIgnored: "All pairs are in use, however many are set.", ["net.control-pairs"];
    NetOffloadsUnchecked: "Offloads can be switched on that were not agreed to.", ["net.control-values"];
    NetOffloadsKept: "Offloads that are switched off are left to the driver.", ["net.control-offloads"];
    NetAddressSetIgnored: "An address that is set is shown, and its packets are not received.", ["net.filter-own"];
    NetBroadcastsFiltered: "Packets to all are received in the promiscuous mode only.",
        ["net.filter-own", "net.filter-table", "net.filter-extra"];
    NetMacTableIgnored: "Tables of addresses are not kept.",
        ["net.filter-table", "net.filter-extra", "net.filter-vlan"];
    NetAllMulticastIgnored: "To receive all multicasts does nothing.", ["net.filter-modes"];
    NetPromiscuousOnce: "The promiscuous mode, once left, is never entered again.", ["net.filter-modes"];
    NetExtraModesStay: "Modes that keep packets out stay on.", ["net.filter-extra"];
    NetVlanAddIgnored: "VLANs that are added are not received.", ["net.filter-vlan"];
    NetTableByHighBits: "The table is looked up by the highest bits of the hash.", ["net.rss-table"];
    NetKeyKept: "Packets are hashed by the first key.", ["net.rss-key"];
    NetUnclassifiedFirst: "Packets without a hash are received on the first pair.", ["net.rss-unclassified"];
    NetSpreadUnchecked: "Tables and keys are taken as they come.", ["net.rss-values"];
    NetCallsForgotten: "The driver is never called for queues whose calls are coalesced.", ["net.coalescing-last"];
    NetCoalescingUntold: "Of every queue it is told that its calls are not coalesced.", ["net.coalescing-told"];
    NetCoalescingAnywhere: "Calls of queues that there are not are coalesced.", ["net.coalescing-queue"];

    // The entropy device.
    RngConstant: "All bytes are the same.", ["rng.fresh", "rng.many-at-once"];
    RngRepeats: "Every request gets the same bytes.", ["rng.fresh", "rng.many-at-once"];
    RngShortWrite: "Half of what the used length says is written.",
        ["rng.all-written", "rng.several-buffers"];
    RngReadableCrashes: "A buffer to read ends the process.", ["rng.readable"];

    // The I2C adapter.
    I2cNoZeroLength: "Requests without data are not offered.", ["i2c.offers-zero-length"];
    I2cAnyDriver: "A driver that did not agree to requests without data is served.",
        ["i2c.refuses-without-zero-length"];
    I2cStatusErr: "Writes have the status ERR.", ["i2c.status-ok"];
    I2cAbsentOk: "Somebody answers at each address.", ["i2c.status-absent"];
    I2cLengthWithoutStatus: "The used length does not count the status.", ["i2c.read-length"];
    I2cNoRepeatedStart: "A read begins where the chip begins, whatever was written before.",
        ["i2c.write-then-read"];
    I2cFailNextIgnored: "What comes behind a failure in its group is carried out.", ["i2c.fail-next-skips"];
    I2cFailNextForEver: "After a failure the next request fails, in whatever group it is.",
        ["i2c.fail-next-only-its-group"];
    I2cGroupsByKick: "A group ends with what was there at the kick.", ["i2c.fail-next-across-kicks"];
    I2cWholeBatchOneStatus: "All of a group have the status of the first.", ["i2c.first-failed-is-err"];
    I2cZeroRefused: "Requests without data are refused.", ["i2c.zero-length"];
    I2cTenBitCut: "Of an address of 10 bits 7 count.", ["i2c.ten-bit"];
    I2cAddressUnchecked: "Of what is no address 7 bits count.", ["i2c.address-malformed"];
    I2cFlagsTaken: "Unknown flags are passed over.", ["i2c.flags-reserved"];
    I2cDirectionTrusted: "A request that reads and writes does what its flag says.",
        ["i2c.direction-disagrees"];
    I2cNoStatusDies: "A request without room for a status ends the process.", ["i2c.no-status-byte"];
    I2cHugeDies: "A message of more than 8192 bytes ends the process.", ["i2c.huge-length"];
    I2cOrderSwapped: "Of two writes the second is carried out first.", ["i2c.in-order"];
    I2cBuffersCounted: "A request is refused if its first buffer is not a header.", ["i2c.split-anywhere"];
    I2cWriteBufferChanged: "What is to be written is overwritten.", ["i2c.write-buffer-untouched"];
    // The platform that speaks SCMI.
    ScmiVersionZero: "The base protocol has version 0.", ["scmi.base-version"];
    ScmiCountWrong: "One more protocol is counted than there are.", ["scmi.base-protocols"];
    ScmiVersionRefused: "The sensors' protocol has no version.", ["scmi.every-protocol-version"];
    ScmiAttributesLie: "All messages are said to be there.", ["scmi.message-attributes"];
    ScmiUnknownProtocolOk: "Commands of unknown protocols succeed.", ["scmi.unknown-protocol"];
    ScmiUnknownMessageCrashes: "An unknown message ends the process.", ["scmi.unknown-message"];
    ScmiNameFull: "The vendor's name fills its field.", ["scmi.names-terminated"];
    ScmiPartsLost: "No answer says that anything remains.", ["scmi.multi-part-ends"];
    ScmiIdsUnchecked: "Sensors can be read that there are not.", ["scmi.ids-dense"];
    ScmiNotifyUnasked: "Notifications can be asked for without a queue for them.", ["scmi.notify-without-events"];
    ScmiNotifySilent: "No sensor tells of itself.", ["scmi.notify-arrives"];
    ScmiTokenLost: "All answers have token 0.", ["scmi.token-kept"];
    ScmiTokenOfOthers: "Answers have tokens of their own.", ["scmi.token-kept", "scmi.many-at-once"];
    ScmiErrorPadded: "Behind a status that is not success there are zeroes.", ["scmi.error-is-status-alone"];
    ScmiLengthZero: "The length of answers is 0.", ["scmi.response-length"];
    ScmiWritesBehind: "Four zeroes are written behind each answer.", ["scmi.response-length"];
    ScmiShortCrashes: "A command without its parameters ends the process.", ["scmi.short"];
    ScmiRoomCrashes: "An answer that does not fit ends the process.", ["scmi.room-small"];
    ScmiCommandOfFirstBuffer: "A command ends with its first buffer.", ["scmi.split-anywhere"];

    // The GPIO controller.
    GpioConfigPadding: "The padding of the configuration is not 0.", ["gpio.config"];
    GpioNamesShort: "The block of names is shorter than the configuration says.", ["gpio.names-block"];
    GpioNamesTwice: "Two lines have the same name.", ["gpio.names-unique"];
    GpioDirectionForgotten: "All lines always go nowhere.", ["gpio.direction-round-trip"];
    GpioValueNeedsDirection: "A level that is set before the direction is lost.", ["gpio.value-before-direction"];
    GpioLengthZero: "Answers have length 0.", ["gpio.response-length"];
    GpioLineBeyondTaken: "Lines that there are not are others.", ["gpio.line-beyond"];
    GpioTypeOk: "Unknown requests succeed.", ["gpio.type-unknown"];
    GpioShortDies: "What is shorter than a request ends the process.", ["gpio.short"];
    GpioRoomUnseen: "Requests are carried out without room for an answer.", ["gpio.response-room"];
    GpioNoneKeeps: "A line that is let go stays as it is.", ["gpio.none-discards"];
    GpioIrqUnasked: "Triggers are taken without IRQ.", ["gpio.irq-not-agreed"];
    GpioIrqOnOutput: "Outputs have triggers.", ["gpio.irq-on-output"];
    GpioUnmaskHeld: "Buffers for lines without a trigger are held.", ["gpio.unmask-without-enable-invalid"];
    GpioDisableKeeps: "A buffer is held when the trigger goes.", ["gpio.disable-returns-buffer"];
    GpioSecondHeld: "Any number of buffers for a line are held.", ["gpio.second-buffer-of-a-line"];
    GpioEdgeLost: "Edges are lost while a line is masked.", ["gpio.edge-latched"];
    GpioLevelLatched: "Levels are remembered as edges are.", ["gpio.level-not-latched"];
    GpioLevelOnce: "A level is told once as long as it lasts.", ["gpio.level-again-while-active"];

    // The input device.
    InputUnknownGarbage: "What is not known is answered with bytes.", ["input.select-unknown-empty"];
    InputNameNul: "The name has an end.", ["input.name"];
    InputIdsShort: "The ids are cut.", ["input.ids"];
    InputBitsEmpty: "A type of events has no codes.", ["input.bits"];
    InputAbsMissing: "An axis has no range.", ["input.abs-info-of-bits"];
    InputSizeStays: "What is not known is answered as what was asked before.", ["input.size-zero-clears"];
    InputSubselAloneIgnored: "Only what is written together with `select` changes `subsel`.",
        ["input.select-in-two-writes"];
    InputWholeRefused: "The configuration cannot be written whole.", ["input.select-whole-struct"];
    InputFieldsOverwrite: "What is written with the selection takes the answer's place.",
        ["input.other-fields-ignored"];
    InputConfigWritable: "The answer can be written.", ["input.read-only-rest"];
    InputStatusLength: "What the driver says comes back with its length.", ["input.status-returned"];
    InputStatusShortDies: "Less than an event of the driver's ends the process.", ["input.status-short"];
    InputStatusManyDies: "More than an event of the driver's ends the process.", ["input.status-many"];
    InputFramesCut: "Events have no end.", ["input.frames-whole"];
    InputBufferShortDies: "A buffer that holds no event ends the process.", ["input.buffer-short"];

    // The console device.
    ConsolePortsNone: "There may be no port.", ["console.config-ports"];
    ConsoleEmergencyRefused: "No character can be written by the configuration.", ["console.emergency"];
    ConsoleOutputCounted: "The length of output is how much there is.", ["console.output"];
    ConsoleEchoSwaps: "Bytes come back in the other order.", ["console.echo"];
    ConsoleNeedsPorts: "A driver that knows one port only gets other bytes.", ["console.echo"];
    ConsoleOutputOfFirstBuffer: "Output ends with its first buffer.", ["console.echo-split"];
    ConsoleTalksFirst: "A driver that has said nothing is told of a port.", ["console.silent-at-first"];
    ConsoleReadyIgnored: "A driver that is ready is told of no port.", ["console.ready-adds-ports"];
    ConsolePortBeyond: "A driver is told of a port too many.", ["console.ready-adds-ports"];
    ConsoleFailedAdded: "A driver that has failed is told of ports.", ["console.failed-adds-none"];
    ConsolePortsMixed: "When a port is ready, another one is told of.", ["console.port-ready"];
    ConsoleNameEnds: "A name ends with a zero.", ["console.name"];
    ConsoleMessageCut: "A message is cut to the length of its buffer.", ["console.message-room"];
    ConsoleShortCrashes: "A message that is too short ends the process.", ["console.control-short"];
    ConsoleUnknownAnswered: "What makes no sense is answered.", ["console.control-unknown"];

    // The socket device.
    VsockCidReserved: "The guest is given the context id of the host.", ["vsock.config-cid"];
    VsockClosedPortSilent: "Nobody hears that nobody is at a port.", ["vsock.rst-closed-port"];
    VsockTypeIgnored: "An unknown type is refused as if it were streams.", ["vsock.rst-unknown-type"];
    VsockUnknownFlowSilent: "Data of no connection are dropped.", ["vsock.rst-unknown-flow"];
    VsockRstAnswered: "An RST is answered by an RST.", ["vsock.no-rst-for-rst"];
    VsockWrongSourceServed: "It does not matter whose name a packet has.", ["vsock.wrong-source-no-harm"];
    VsockShortCrashes: "A packet shorter than a header ends the process.", ["vsock.short-header"];
    VsockHeaderAlone: "A header must lie in the first buffer.", ["vsock.header-split"];
    VsockBacklogCrashes: "Many answers without a buffer end the process.", ["vsock.rx-none-tx-goes-on"];
    VsockSeqpacketUnasked: "Messages are served that were not agreed to.", ["vsock.seqpacket-not-agreed"];
    VsockNoCreditInResponse: "Who accepts says that there is no room.", ["vsock.response-credit"];
    VsockEchoChanges: "The first byte that comes back is another.", ["vsock.echo-every-byte", "vsock.rx-small-buffers"];
    VsockLargeDropped: "Packets in many buffers are dropped.", ["vsock.large-packet"];
    VsockSmallBufferUnused: "Data need a buffer of 1 KiB.", ["vsock.rx-small-buffers"];
    VsockCreditIgnored: "The guest's room is not looked at.", ["vsock.credit-kept", "vsock.credit-zero-waits"];
    VsockCreditForgotten: "Who had no room gets nothing any more.", ["vsock.credit-zero-waits"];
    VsockCreditRequestSilent: "Nobody answers who asks for room.", ["vsock.credit-request"];
    VsockNoUpdate: "Nothing is ever done away with.", ["vsock.credit-update-comes"];
    VsockOverrunTaken: "More is taken than there is room for.", ["vsock.credit-broken-rst"];
    VsockLengthBelieved: "A packet has as many bytes as it says.", ["vsock.length-beyond"];
    VsockHalfIsWhole: "The end of one way ends the connection.", ["vsock.shutdown-half"];
    VsockShutdownSilent: "Who ends both ways hears nothing.", ["vsock.shutdown-answered"];
    VsockPortStuck: "A port that was used once is refused.", ["vsock.ports-again"];
    VsockFlowsMixed: "Data go to the first connection.", ["vsock.many-flows"];
    VsockEomLost: "No message ends.", ["vsock.seqpacket-bounds"];
}
