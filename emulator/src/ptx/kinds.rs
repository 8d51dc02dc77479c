//! What each lane can do for itself, by the files of the operands: `W` words, `D` doubles.

/// Word to word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum W1 {
    Move,
    Not,
    Not16,
    Negate,
    Negate16,
    Absolute,
    Popcount,
    LeadingZeros,
    Reverse,
    NegateF,
    AbsoluteF,
    SqrtF,
    ReciprocalF,
    ReciprocalApprox,
    Exp2Approx,
    FloatOfHalf,
    FloatOfBrain,
    HalfOfFloat,
    BrainOfFloat,
    Tf32OfFloat,
    FloatOfSigned,
    FloatOfUnsigned,
    SignedOfFloatToZero,
    UnsignedOfFloatToZero,
    SignedOfFloatNearest,
    Low8,
    Low16,
    Signed8,
    Signed8To16,
    Signed16,
}

/// Two words to a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum W2 {
    Add,
    Subtract,
    Multiply,
    MultiplyHighU,
    MultiplyHighS,
    DivideU,
    DivideS,
    RemainderU,
    RemainderS,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRightU,
    ShiftRightS,
    MinU,
    MaxU,
    MinS,
    MaxS,
    Add16,
    Subtract16,
    Multiply16,
    ShiftLeft16,
    ShiftRight16,
    MultiplyWide16,
    AddF,
    SubtractF,
    MultiplyF,
    DivideF,
    MinF,
    MaxF,
    MinNanF,
    MaxNanF,
    HalvesOfFloats,
    BrainsOfFloats,
    /// Low half, high half.
    Pack,
}

/// Three words to a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum W3 {
    MultiplyAdd,
    FmaF,
    Permute,
    FunnelLeftWrap,
    FunnelRightWrap,
    FunnelLeftClamp,
    FunnelRightClamp,
    ExtractU,
}

/// Double to double.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum D1 {
    Move,
    Not,
    Negate,
    Absolute,
    NegateF,
    AbsoluteF,
    SqrtF,
    FloatOfSigned,
    FloatOfUnsigned,
}

/// Two doubles to a double.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum D2 {
    Add,
    Subtract,
    Multiply,
    MultiplyHighU,
    DivideU,
    DivideS,
    RemainderU,
    RemainderS,
    And,
    Or,
    Xor,
    MinU,
    MaxU,
    MinS,
    MaxS,
    AddF,
    SubtractF,
    MultiplyF,
    DivideF,
    MinF,
    MaxF,
}

/// Three doubles to a double.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum D3 {
    MultiplyAdd,
    FmaF,
}

/// A double shifted by a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shift {
    Left,
    RightU,
    RightS,
}

/// Word to double.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WD {
    Unsigned,
    Signed,
    DoubleOfFloat,
    DoubleOfSigned,
    DoubleOfUnsigned,
}

/// Two words to a double.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum W2D {
    MultiplyU,
    MultiplyS,
    /// Low word, high word.
    Pack,
}

/// Double to word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DW {
    Low,
    Low16,
    Popcount,
    LeadingZeros,
    FloatOfDouble,
    FloatOfUnsigned,
    FloatOfSigned,
    SignedOfDoubleToZero,
}
