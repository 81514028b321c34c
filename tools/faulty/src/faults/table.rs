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
    ReplyKeepsNeedReply: "Replies carry the NEED_REPLY flag too.", ["framing.reply-flags"];
    ReplyWithoutFlag: "Replies lack the REPLY flag.", ["framing.reply-flags"];
    ReplyVersionZero: "Replies carry version 0.", ["framing.reply-flags"];
    ReplyIdWrong: "Replies carry the next message's code.", ["framing.reply-id"];
    ReplyTooLong: "Replies are four bytes longer than they have to be.", ["framing.reply-size"];
    ReplyTooShort: "Replies are cut to four bytes.", ["framing.reply-size"];
    ReplyInPieces: "The payload of a reply comes 20 ms after its header.", [];
    AnswerMissing: "Messages with an answer of their own get none, but for those that ask for features.", [];
    AckNever: "Nothing is acknowledged.", [];
    AckUnasked: "Once REPLY_ACK is agreed on, everything is acknowledged, asked or not.", [];
    AckWithoutAgreement: "NEED_REPLY is honoured without REPLY_ACK.", [];
    AckFromNextMessage: "The message that agrees on REPLY_ACK is not acknowledged itself.", [];
    AckTwice: "Each acknowledgement is sent twice.", [];
    AckBesidesAnswer: "An answer with data is followed by an acknowledgement if NEED_REPLY is set.", [];
    AckAlwaysZero: "Refusals are acknowledged as success.", [];
    AckAlwaysNonzero: "Success is acknowledged as a refusal.", [];
    RefusalCloses: "A refusal ends the connection although it could be told.", [];
    UnknownIgnored: "An unknown message with NEED_REPLY is passed over in silence.", [];
    UnknownAcked: "An unknown message is acknowledged as done.", [];
    UnknownCloses: "An unknown message with NEED_REPLY ends the connection.", [];
    UnknownCrashes: "An unknown message ends the process.", [];
    VersionUnchecked: "A message of any version is accepted.", [];
    StrayReplyAccepted: "A message with the REPLY flag is taken as a request.", [];
    ReadsOnce: "A message that arrives in pieces ends the connection.", [];
    CoalescedLost: "Of messages that arrive together only the first is seen.", [];
    StallEndless: "A message that is begun and not ended is waited for without end.", [];
    OversizedCrashes: "A header that announces too much ends the process.", [];
    OversizedAwaited: "A payload of any size is waited for.", [];
    ShortPayloadAccepted: "A payload that is too short is taken as zeroes.", [];
    ShortPayloadCrashes: "A payload that is too short ends the process.", [];
    LongPayloadAccepted: "What is too much in a payload is passed over.", [];
    CutMessageCrashes: "A connection that ends within a message ends the process.", [];
    FdsLeaked: "Descriptors that nobody asked for stay open.", [];
    FdCountIgnored: "Descriptors beyond those that belong there are closed and passed over.", [];
    GatesOpen: "Messages are carried out whose feature is not agreed on.", [];

    // Negotiation.
    OfferWithoutVersion1: "VIRTIO_F_VERSION_1 is not on offer.", [];
    OfferWithoutProtocol: "VHOST_USER_F_PROTOCOL_FEATURES is not on offer.", [];
    OfferChangesWithConnection: "Every other connection gets fewer virtio features on offer.", [];
    OfferIommuAlone: "VIRTIO_F_ACCESS_PLATFORM is on offer without the back channel.", [];
    OfferChanges: "The virtio features on offer change during the connection.", [];
    OfferUnimplemented: "VIRTIO_F_ACCESS_PLATFORM is on offer, and not implemented.", [];
    OfferInband: "INBAND_NOTIFICATIONS is on offer, and not implemented.", [];
    OfferSendFdAlone: "BACKEND_SEND_FD is on offer without BACKEND_REQ, which it needs.", [];
    ProtocolOfferChanges: "The protocol features on offer change during the connection.", [];
    ProtocolNeedsFeatures: "SET_PROTOCOL_FEATURES before SET_FEATURES is refused.", [];
    ProtocolOutlivesConnection: "The next connection finds the protocol features of the last one agreed on.", [];
    ProtocolOnlyOnce: "SET_PROTOCOL_FEATURES is refused the second time.", [];
    UnofferedAccepted: "SET_FEATURES accepts bits that were not offered.", [];
    UnofferedProtocolAccepted: "SET_PROTOCOL_FEATURES accepts bits that were not offered.", [];
    FeaturesOnlyOnce: "Only the first SET_FEATURES has an effect.", [];
    FeaturesEnable: "SET_FEATURES enables all rings also with bit 30.", [];
    FeaturesDisable: "SET_FEATURES with bit 30 disables all rings.", [];
    FeaturesRestartRings: "Any SET_FEATURES restarts the rings.", [];
    NoBit30StaysDisabled: "SET_FEATURES without bit 30 does not enable the rings.", [];
    OwnerOnlyOnce: "A second SET_OWNER ends the connection.", [];
    QueueCountWrong: "GET_QUEUE_NUM answers one more than there are.", [];
    QueueCountZero: "GET_QUEUE_NUM answers 0.", [];
    QueueCountGrows: "GET_QUEUE_NUM answers more with each message.", [];
    QueueCountNeedsMq: "GET_QUEUE_NUM is refused without MQ.", [];
    BadRingAcked: "Messages for rings that there are not are acknowledged as done.", [];
    BadRingCrashes: "A message for a ring that there is not ends the process.", [];
    RingIndexTruncated: "Only the low eight bits of a ring's index count.", [];
    ResetIgnored: "RESET_DEVICE, and status 0, do nothing.", [];
    ResetKeepsEnabled: "A reset leaves rings enabled.", [];
    ResetDropsMemory: "A reset forgets the memory table.", [];
    ResetDropsProtocol: "A reset forgets the protocol features.", [];
    StatusForgotten: "GET_STATUS answers 0.", [];
    StatusZeroKeepsRings: "SET_STATUS 0 resets nothing.", [];

    // Memory.
    TableOfFour: "SET_MEM_TABLE takes four regions at most.", [];
    TableInParts: "A table of which a part is wrong is in force up to that part.", [];
    TableCountUnchecked: "SET_MEM_TABLE takes as many regions as the payload has, whatever the count.", [];
    TableWithoutFdsAccepted: "SET_MEM_TABLE takes as many regions as there are descriptors.", [];
    TableAdds: "SET_MEM_TABLE adds to the old table.", [];
    TableRefusedWithSlots: "SET_MEM_TABLE is refused once CONFIGURE_MEM_SLOTS is agreed on.", [];
    SlotsTooFew: "GET_MAX_MEM_SLOTS answers 4.", [];
    FewSlots: "ADD_MEM_REG takes eight regions, whatever GET_MAX_MEM_SLOTS says.", [];
    OverlapAccepted: "Regions may overlap.", [];
    BadRegionAccepted: "A region that cannot be mapped (empty, overflowing, beyond its file) is accepted.", [];
    OffsetRoundedDown: "A region is mapped from the start of the page that its offset lies in.", [];
    ShortFileCrashes: "A region beyond its file ends the process.", [];
    TruncationCrashes: "A file that is cut short under its mapping ends the process.", [];
    UnalignedRegionRefused: "A region whose offset is not that of a page is refused.", [];
    RemovalIgnored: "REM_MEM_REG does nothing.", [];
    RemovalNeedsOffset: "REM_MEM_REG compares the file offset too.", [];
    RemovalRefusesFd: "REM_MEM_REG with a descriptor is refused.", [];
    UnknownRemovalAcked: "REM_MEM_REG of a region that there is not is acknowledged as done.", [];
    MappingsLeaked: "Old tables stay mapped.", [];
    RingsKeepOldMemory: "Running rings go on in the memory of the old table.", [];
    StraddlingRefused: "A buffer in two neighbouring regions stops its ring.", [];

    // Setting rings up, stopping them.
    NeedsKick: "A ring that can run is not looked at before the next kick.", [];
    EarlyRequestsSkipped: "What is available when a ring starts is skipped.", [];
    KickNeedsAddress: "SET_VRING_KICK before SET_VRING_ADDR is refused.", [];
    PollingRefused: "SET_VRING_KICK without a descriptor is refused.", [];
    AddressNeedsMemory: "SET_VRING_ADDR before the memory table is refused.", [];
    AddressResetsRing: "SET_VRING_ADDR on a running ring sets it back to its start.", [];
    MisalignedRingAccepted: "The parts of a ring may lie at any address.", [];
    RingSizeUnchecked: "SET_VRING_NUM accepts any size.", [];
    OddRingSizeRefused: "SET_VRING_NUM takes powers of two only, for packed rings too.", [];
    RingSizeLimited: "SET_VRING_NUM refuses more than 256.", [];
    FirstCallKept: "Only the first SET_VRING_CALL of a ring has an effect.", [];
    EarlyEnableLost: "SET_VRING_ENABLE before SET_VRING_ADDR has no effect.", [];
    EarlyEnableRefused: "SET_VRING_ENABLE before SET_VRING_ADDR is refused.", [];
    EnableUnchecked: "SET_VRING_ENABLE accepts any number.", [];
    DisabledServed: "Disabled rings are served.", [];
    BaseIgnored: "SET_VRING_BASE has no effect.", [];
    StopNeedsStart: "GET_VRING_BASE of a ring that is not started ends the connection.", [];
    StopDoesNotStop: "A ring goes on after GET_VRING_BASE.", [];
    StopDoesNotDrain: "Requests take 200 ms, and GET_VRING_BASE forgets those that are not done.", [];
    StopDisables: "GET_VRING_BASE disables the ring too.", [];
    StopBaseWrong: "GET_VRING_BASE answers one more than it has to.", [];
    StopBaseZero: "GET_VRING_BASE always answers 0.", [];
    StopIndexWrong: "GET_VRING_BASE names the next ring in its answer.", [];

    // Rings.
    UsedIndexReset: "The used index is set to 0 when a split ring starts.", [];
    UsedIndexForgotten: "Completed requests are not shown to the driver.", [];
    UsedIndexByOne: "The used index of a split ring moves by one for a whole batch.", [];
    UsedTwice: "The last request of each batch is returned twice.", [];
    UsedIdWrong: "Requests are returned under another number.", [];
    UsedInReverse: "Requests of a batch are returned in reverse order.", [];
    UsedLenZero: "The used length is always 0.", [];
    UsedLenTooLong: "The used length is more than there was room for.", [];
    UsedLenCountsReadable: "The used length counts what was read too.", [];
    NoInterruptIgnored: "The driver is called although it wants no calls.", [];
    UsedEventIgnored: "With EVENT_IDX the driver is called for every batch.", [];
    UsedEventOffByOne: "With EVENT_IDX the driver is called one request too late.", [];
    NeverCalls: "The driver is never called.", [];
    AvailEventStuck: "With EVENT_IDX the driver is asked to kick for a request that is far away.", [];
    KicksSuppressed: "Without EVENT_IDX the driver is told not to kick, for ever.", [];
    DescriptorsOverwritten: "The length of a split ring's descriptors is overwritten with 0.", [];
    PackedWrapWrong: "Descriptors of a packed ring are marked used for the wrong lap.", [];
    PackedWriteFlagMissing: "Used descriptors of a packed ring never have the WRITE flag.", [];
    PackedIdOfFirst: "The id of a packed chain is taken from its first descriptor.", [];
    PackedChainsCountOne: "The used position of a packed ring moves by one for a chain of several.", [];
    IndirectTakenAsBuffer: "An indirect table is taken as a buffer.", [];
    IndirectFirstOnly: "Only the first entry of an indirect table is seen.", [];
    IndirectLimitedToRing: "An indirect table longer than the ring stops the ring.", [];
    IndirectOnlyAlone: "An indirect descriptor behind others stops the ring.", [];
    EmptyBufferRefused: "A buffer of length 0 stops the ring.", [];

    // Hostile drivers.
    EmptyBufferCrashes: "A buffer of length 0 ends the process.", [];
    BadAddressCrashes: "A buffer outside of memory ends the process.", [];
    BadAddressSkipped: "A buffer outside of memory is left out.", [];
    BadHeadCrashes: "A head that is not in the descriptor table ends the process.", [];
    BadLinkCrashes: "A link that leads out of the descriptor table ends the process.", [];
    AvailJumpAccepted: "An available index that is more than a ring ahead is followed.", [];
    LoopsForEver: "A chain without an end is followed without end.", [];
    AnyOrderAccepted: "Readable buffers may follow writable ones.", [];
    IndirectNestedAccepted: "An indirect table may contain another.", [];
    IndirectNextAccepted: "An indirect descriptor may have a next one.", [];
    IndirectLengthIgnored: "An indirect table may be of any length.", [];
    IndirectUnagreedAccepted: "Indirect descriptors are served without VIRTIO_F_INDIRECT_DESC.", [];
    ErrorSilent: "A faulty ring does not signal its error descriptor.", [];
    RingErrorStopsAll: "A faulty ring stops the others too.", [];
    RingErrorCrashes: "A faulty ring ends the process.", [];
    RingErrorForEver: "A ring that was faulty cannot be started again.", [];

    // Configuration space.
    ConfigAnswerShort: "GET_CONFIG answers no more bytes than there are.", [];
    ConfigSizeWrong: "GET_CONFIG answers with another size than it was asked for.", [];
    ConfigOffsetIgnored: "GET_CONFIG reads from the start, whatever the offset.", [];
    ConfigOffsetNotEchoed: "GET_CONFIG answers with another offset.", [];
    ConfigNotPadded: "GET_CONFIG refuses to read beyond the end of what there is.", [];
    ConfigPaddedWithOnes: "GET_CONFIG fills up with ones.", [];
    ConfigRangeCloses: "GET_CONFIG beyond all bounds ends the connection.", [];
    ConfigFlagsRefused: "GET_CONFIG with flags is refused.", [];
    ConfigNeedsFeatures: "GET_CONFIG before SET_FEATURES is refused.", [];
    ConfigUnstable: "The configuration is another with each message.", [];
    ConfigWriteIgnored: "SET_CONFIG is acknowledged and does nothing.", [];
    ConfigWriteAnywhere: "SET_CONFIG is acknowledged also where the driver may not write.", [];
    ChangeUntold: "CONFIG_CHANGE_MSG is never sent.", [];
    ChangeToldAtOnce: "CONFIG_CHANGE_MSG is sent although no ring runs, or nobody agreed to it.", [];

    // Dirty log.
    LogDataMissing: "Written buffers are not logged.", [];
    LogFirstPageOnly: "Of each written buffer the first page is logged.", [];
    LogFirstBufferOnly: "Of each request the first written buffer is logged.", [];
    LogUsedMissing: "Writes to the used ring are not logged.", [];
    LogUsedElementsMissing: "Used elements, or descriptors, are not logged.", [];
    LogUsedIndexMissing: "The used index is not logged.", [];
    LogEventMissing: "The device's event index, or area, is not logged.", [];
    LogShifted: "The page behind the right one is logged.", [];
    LogAfterPublishing: "Buffers are logged 50 ms after the driver got them.", [];
    LogAlways: "Written buffers are logged without VHOST_F_LOG_ALL.", [];
    LogNeverReplaced: "Only the first SET_LOG_BASE has an effect.", [];
    LogOffsetIgnored: "The log is taken to begin with its file.", [];
    LogAnswerMissing: "SET_LOG_BASE is acknowledged, if asked for, but not answered.", [];

    // Requests in flight.
    InflightTooSmall: "GET_INFLIGHT_FD makes a buffer of a quarter of the size.", [];
    InflightNotZeroed: "GET_INFLIGHT_FD makes a buffer of ones.", [];
    InflightWithoutFd: "GET_INFLIGHT_FD answers without a descriptor.", [];
    InflightAnswerShort: "GET_INFLIGHT_FD answers with 20 bytes.", [];
    InflightShapeForgotten: "GET_INFLIGHT_FD answers 0 for rings and ring size.", [];
    InflightSizeUnchecked: "SET_INFLIGHT_FD accepts a buffer that is too small.", [];
    InflightOffsetIgnored: "SET_INFLIGHT_FD takes the buffer to begin with its file.", [];
    InflightUnused: "Buffers are made and taken, and not used.", [];
    InflightUnrecorded: "Requests are not recorded.", [];
    InflightForgotten: "What a predecessor recorded is forgotten.", [];
    InflightNotCleared: "Records of completed requests stay.", [];
    InflightUsedIndexStale: "The used index of the records does not follow the ring.", [];
    InflightBatchUnlinked: "The last batch of a split ring is not linked.", [];
    InflightBatchRepeated: "What a predecessor returned without clearing its record is served again.", [];
    InflightCounterMissing: "The order of requests is not recorded.", [];
    InflightOrderLost: "Requests of a predecessor are served in reverse order.", [];

    // Device state.
    StateAnswerZero: "SET_DEVICE_STATE_FD announces a descriptor that does not come.", [];
    StateDirectionUnchecked: "SET_DEVICE_STATE_FD accepts any direction.", [];
    StatePhaseUnchecked: "SET_DEVICE_STATE_FD accepts any phase.", [];
    StateWhileRunning: "SET_DEVICE_STATE_FD is accepted while rings run.", [];
    StateSaveOpen: "The end of a state is not shown by closing its descriptor.", [];
    StateSaveTruncated: "Half of the state is saved.", [];
    StateLoadIgnored: "A state is read and not taken over.", [];
    StateCorruptAccepted: "Any bytes are accepted as a state.", [];
    StateCheckAlwaysZero: "CHECK_DEVICE_STATE always answers 0.", [];
    StateCheckAlwaysFails: "CHECK_DEVICE_STATE always answers 1.", [];

    // Connections.
    ExitsAtDisconnect: "The program ends with its first connection.", [];
    DisconnectCrashes: "A front end that goes while a ring runs ends the process.", [];
    QuietConnectionCrashes: "A front end that goes without a word ends the process.", [];
    UnheardAnswerCrashes: "An answer that nobody takes ends the process.", [];
    HalfCloseIgnored: "A connection that the front end has closed for writing stays open.", [];
    ReplacedFdsLeaked: "A ring's descriptors that are replaced stay open.", [];
    ConnectionLeaked: "The socket of each connection stays open in a copy.", [];
    ThreadLeaked: "Each connection leaves a thread behind.", [];
    SecondConnectionDisturbs: "A front end that connects ends the connection of another.", [];
    DisconnectDropsRequests: "Requests that were taken are not completed when the connection ends.", [];

    // The program.
    TermIgnored: "SIGTERM does nothing.", [];
    ExitStatusWrong: "The program ends with status 3 when it is told to end.", [];
    SocketLeftBehind: "The socket's path is not removed at the end.", [];
    StaleSocketRefused: "A socket that a dead program left behind is in the way.", [];
    SocketStolen: "Whatever is at the socket's path is removed.", [];
    StdoutNoise: "Something is printed on standard output.", [];
    CapabilitiesNotJson: "What --print-capabilities prints is not JSON.", [];
    CapabilitiesNeedOptions: "Asking with --print-capabilities needs the options that are required otherwise.", [];
    CapabilitiesMakeSocket: "Asking with --print-capabilities makes the socket.", [];
    FdRefused: "An inherited socket (--fd) is refused.", [];
    FdOutlived: "With --fd the program goes on when the front end is gone.", [];
    NoSocketAccepted: "Without a socket the program ends with status 0.", [];
    SocketAndFdAccepted: "Options --socket-path and --fd may be given together.", [];
    FailureHidden: "The program ends with status 0 when its socket cannot be made.", [];
    Daemonizes: "The program goes on in the background, for 20 seconds.", [];
    OptionsUnchecked: "Unknown options are passed over.", [];

    // The disk.
    BlkCapacityInBytes: "The capacity is given in bytes.", [];
    BlkQueuesZero: "The configuration says that there are no queues.", [];
    BlkStatusMissing: "The status is not written.", [];
    BlkStatusFirst: "The status goes into the first writable byte.", [];
    BlkStatusWrong: "The status is 3.", [];
    BlkStatusNotCounted: "The used length does not count the status.", [];
    BlkWritesDropped: "Written data is dropped.", [];
    BlkFlushFails: "A flush fails.", [];
    BlkIdWrong: "The serial is of other bytes than the disk's.", [];
    BlkOutOfRangeOk: "A request beyond the end of the disk succeeds.", [];
    BlkOutOfRangeCrashes: "A request beyond the end of the disk ends the process.", [];
    BlkReadOnlyOk: "A write to a read-only disk succeeds.", [];
    BlkUnknownOk: "An unknown request succeeds.", [];
    BlkUnknownFails: "An unknown request fails as an I/O error.", [];
    BlkUnknownCrashes: "An unknown request ends the process.", [];
    BlkRangeFlagsIgnored: "Flags of discard and write-zeroes that do not exist are passed over.", [];
    BlkZeroesIgnored: "Discard and write-zeroes do nothing.", [];

    // The entropy device.
    RngConstant: "All bytes are the same.", [];
    RngRepeats: "Every request gets the same bytes.", [];
    RngShortWrite: "Half of what the used length says is written.", [];
}
