//! Progress of one message at its three ends: from the sender, to the processor, to the receiver.

/// Progress of a body that comes from its sender.
///
/// ```text
/// Nothing ──piece──▶ Part ──end──▶ Whole
///    │ └────────────end──────────▶ Empty
///    └──head that says that nothing follows──▶ HeadAlone
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    Nothing,
    /// Some of the body, be it an empty frame.
    Part,
    Whole,
    /// The end without a frame of data before it: trailers, or nobody reads the rest.
    Empty,
    HeadAlone,
}

impl Came {
    /// A frame of data arrived.
    pub(super) fn piece(&mut self) {
        if *self == Self::Nothing {
            *self = Self::Part;
        }
    }

    /// Nothing more is read.
    pub(super) fn end(&mut self) {
        *self = match *self {
            Self::Nothing => Self::Empty,
            Self::Part => Self::Whole,
            ended => ended,
        };
    }

    pub(super) fn is_ended(self) -> bool {
        matches!(self, Self::Whole | Self::Empty | Self::HeadAlone)
    }

    pub(super) fn has_data(self) -> bool {
        matches!(self, Self::Part | Self::Whole)
    }
}

/// Progress of a message at the processor.
///
/// ```text
/// Nothing ──▶ Head ──▶ Part ──▶ Whole
///    │         │ │      └─────▶ BodyAndTrailers
///    │         │ └────────────▶ Trailers
///    └─────────┴─ any of them may be skipped
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Nothing,
    Head,
    /// Some of the body.
    Part,
    /// The body with its end. No trailers follow it.
    Whole,
    /// Trailers without a body before them.
    Trailers,
    BodyAndTrailers,
}

impl Shown {
    pub(super) fn head(&mut self) {
        if *self == Self::Nothing {
            *self = Self::Head;
        }
    }

    /// Some of the body was sent, `end` if the processor was told that nothing follows.
    pub(super) fn body(&mut self, end: bool) {
        *self = match (*self, end) {
            (Self::Trailers | Self::BodyAndTrailers, _) => Self::BodyAndTrailers,
            (Self::Whole, _) | (_, true) => Self::Whole,
            (_, false) => Self::Part,
        };
    }

    pub(super) fn trailers(&mut self) {
        *self = match self.has_body() {
            true => Self::BodyAndTrailers,
            false => Self::Trailers,
        };
    }

    pub(super) fn has_body(self) -> bool {
        matches!(self, Self::Part | Self::Whole | Self::BodyAndTrailers)
    }

    pub(super) fn has_trailers(self) -> bool {
        matches!(self, Self::Trailers | Self::BodyAndTrailers)
    }
}

/// Progress of what follows a head to the receiver.
///
/// ```text
/// Open ──CONTINUE_AND_REPLACE──▶ Replaced
///  └──────────────end──────────▶ Ended ◀──┘
/// each ──the rest is for nobody──▶ Dropped
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    Open,
    /// Another body goes in place of the sender's, whose rest is read and dropped.
    Replaced,
    /// The end went on. In full duplex the processor still sees the sender's rest.
    Ended,
    /// Nothing more goes on, and the sender's rest is read and dropped.
    Dropped,
}

impl Gone {
    pub(super) fn replace(&mut self) {
        if *self == Self::Open {
            *self = Self::Replaced;
        }
    }

    pub(super) fn end(&mut self) {
        if *self != Self::Dropped {
            *self = Self::Ended;
        }
    }

    pub(super) fn is_ended(self) -> bool {
        matches!(self, Self::Ended | Self::Dropped)
    }

    /// Tells whether what the sender still sends is dropped.
    pub(super) fn drops_rest(self) -> bool {
        matches!(self, Self::Replaced | Self::Dropped)
    }
}
