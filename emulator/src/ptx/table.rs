//! The plain forms: what each computes, and of which registers.
//!
//! A signature has a letter for each operand, the result first: `w` 32 bits, `h` 16, `d` 64, `p` a predicate, `x` 16 or
//! 32. Forms with modifiers of many kinds (memory, comparisons, collectives) are read by `decode.rs` itself.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::kinds::{D1, D2, D3, DW, Shift, W1, W2, W2D, W3, WD};
use super::op::{Logic, Op, Row};

/// What an instruction of a plain form becomes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Make {
    W1(W1),
    W2(W2),
    W3(W3),
    D1(D1),
    D2(D2),
    D3(D3),
    Shift(Shift),
    WD(WD),
    W2D(W2D),
    Wide(bool),
    DW(DW),
    InsertW,
    InsertD,
    SelectW,
    SelectD,
    Logic(Logic),
    MoveP,
    NotP,
    GenericOfShared,
    SharedOfGeneric,
    Fence,
    Return,
}

impl Make {
    /// The instruction on these rows, as many as the signature has letters.
    pub(super) fn op(self, rows: &[Row]) -> Op {
        let at = |i: usize| rows.get(i).copied().unwrap_or(super::op::NONE);
        let (two, three) = ([at(0), at(1)], [at(0), at(1), at(2)]);
        let (four, five) = ([at(0), at(1), at(2), at(3)], [at(0), at(1), at(2), at(3), at(4)]);
        match self {
            Make::W1(what) => Op::W1(what, two),
            Make::W2(what) => Op::W2(what, three),
            Make::W3(what) => Op::W3(what, four),
            Make::D1(what) => Op::D1(what, two),
            Make::D2(what) => Op::D2(what, three),
            Make::D3(what) => Op::D3(what, four),
            Make::Shift(what) => Op::Shift(what, three),
            Make::WD(what) => Op::WD(what, two),
            Make::W2D(what) => Op::W2D(what, three),
            Make::Wide(signed) => Op::MultiplyAddWide { signed, d: at(0), a: at(1), b: at(2), c: at(3) },
            Make::DW(what) => Op::DW(what, two),
            Make::InsertW => Op::InsertW(five),
            Make::InsertD => Op::InsertD(five),
            Make::SelectW => Op::SelectW(four),
            Make::SelectD => Op::SelectD(four),
            Make::Logic(what) => Op::Logic(what, three),
            Make::MoveP => Op::MoveP(two),
            Make::NotP => Op::NotP(two),
            Make::GenericOfShared => Op::GenericOfShared(two),
            Make::SharedOfGeneric => Op::SharedOfGeneric(two),
            Make::Fence => Op::Fence,
            Make::Return => Op::Return,
        }
    }
}

/// The signature and meaning of a plain form.
pub(super) fn plain(form: &str) -> Option<(&'static str, Make)> {
    static FORMS: OnceLock<HashMap<&str, (&str, Make)>> = OnceLock::new();
    let forms = FORMS.get_or_init(|| {
        let all = [WORDS, DOUBLES, CONVERSIONS, OTHERS].into_iter().flatten();
        all.flat_map(|(forms, signature, make)| forms.split_whitespace().map(|form| (form, (*signature, *make))))
            .collect()
    });
    forms.get(form).copied()
}

type Line = (&'static str, &'static str, Make);

const WORDS: &[Line] = &[
    ("mov.b32 mov.u32 mov.s32 mov.f32", "ww", Make::W1(W1::Move)),
    ("mov.b16 mov.u16 mov.s16", "hh", Make::W1(W1::Move)),
    ("not.b32", "ww", Make::W1(W1::Not)),
    ("not.b16", "hh", Make::W1(W1::Not16)),
    ("neg.s32", "ww", Make::W1(W1::Negate)),
    ("neg.s16", "hh", Make::W1(W1::Negate16)),
    ("abs.s32", "ww", Make::W1(W1::Absolute)),
    ("popc.b32", "ww", Make::W1(W1::Popcount)),
    ("clz.b32", "ww", Make::W1(W1::LeadingZeros)),
    ("brev.b32", "ww", Make::W1(W1::Reverse)),
    ("neg.f32", "ww", Make::W1(W1::NegateF)),
    ("abs.f32", "ww", Make::W1(W1::AbsoluteF)),
    ("sqrt.rn.f32", "ww", Make::W1(W1::SqrtF)),
    ("rcp.rn.f32", "ww", Make::W1(W1::ReciprocalF)),
    ("rcp.approx.ftz.f32", "ww", Make::W1(W1::ReciprocalApprox)),
    ("ex2.approx.ftz.f32", "ww", Make::W1(W1::Exp2Approx)),
    ("add.s32 add.u32", "www", Make::W2(W2::Add)),
    ("sub.s32 sub.u32", "www", Make::W2(W2::Subtract)),
    ("mul.lo.s32 mul.lo.u32", "www", Make::W2(W2::Multiply)),
    ("mul.hi.u32", "www", Make::W2(W2::MultiplyHighU)),
    ("mul.hi.s32", "www", Make::W2(W2::MultiplyHighS)),
    ("div.u32", "www", Make::W2(W2::DivideU)),
    ("div.s32", "www", Make::W2(W2::DivideS)),
    ("rem.u32", "www", Make::W2(W2::RemainderU)),
    ("rem.s32", "www", Make::W2(W2::RemainderS)),
    ("and.b32", "www", Make::W2(W2::And)),
    ("or.b32", "www", Make::W2(W2::Or)),
    ("xor.b32", "www", Make::W2(W2::Xor)),
    ("and.b16", "hhh", Make::W2(W2::And)),
    ("or.b16", "hhh", Make::W2(W2::Or)),
    ("xor.b16", "hhh", Make::W2(W2::Xor)),
    ("shl.b32", "www", Make::W2(W2::ShiftLeft)),
    ("shr.u32 shr.b32", "www", Make::W2(W2::ShiftRightU)),
    ("shr.s32", "www", Make::W2(W2::ShiftRightS)),
    ("shl.b16", "hhw", Make::W2(W2::ShiftLeft16)),
    ("shr.u16 shr.b16", "hhw", Make::W2(W2::ShiftRight16)),
    ("min.u32", "www", Make::W2(W2::MinU)),
    ("max.u32", "www", Make::W2(W2::MaxU)),
    ("min.s32", "www", Make::W2(W2::MinS)),
    ("max.s32", "www", Make::W2(W2::MaxS)),
    ("min.u16", "hhh", Make::W2(W2::MinU)),
    ("max.u16", "hhh", Make::W2(W2::MaxU)),
    ("add.s16 add.u16", "hhh", Make::W2(W2::Add16)),
    ("sub.s16 sub.u16", "hhh", Make::W2(W2::Subtract16)),
    ("mul.lo.s16 mul.lo.u16", "hhh", Make::W2(W2::Multiply16)),
    ("mul.wide.u16", "whh", Make::W2(W2::MultiplyWide16)),
    ("add.rn.f32 add.f32", "www", Make::W2(W2::AddF)),
    ("sub.rn.f32 sub.f32", "www", Make::W2(W2::SubtractF)),
    ("mul.rn.f32 mul.f32", "www", Make::W2(W2::MultiplyF)),
    ("div.rn.f32", "www", Make::W2(W2::DivideF)),
    ("min.f32", "www", Make::W2(W2::MinF)),
    ("max.f32", "www", Make::W2(W2::MaxF)),
    ("min.NaN.f32", "www", Make::W2(W2::MinNanF)),
    ("max.NaN.f32", "www", Make::W2(W2::MaxNanF)),
    ("mad.lo.s32 mad.lo.u32", "wwww", Make::W3(W3::MultiplyAdd)),
    ("fma.rn.f32", "wwww", Make::W3(W3::FmaF)),
    ("prmt.b32", "wwww", Make::W3(W3::Permute)),
    ("shf.l.wrap.b32", "wwww", Make::W3(W3::FunnelLeftWrap)),
    ("shf.r.wrap.b32", "wwww", Make::W3(W3::FunnelRightWrap)),
    ("shf.l.clamp.b32", "wwww", Make::W3(W3::FunnelLeftClamp)),
    ("shf.r.clamp.b32", "wwww", Make::W3(W3::FunnelRightClamp)),
    ("bfe.u32", "wwww", Make::W3(W3::ExtractU)),
    ("bfi.b32", "wwwww", Make::InsertW),
    ("selp.b32 selp.u32 selp.s32 selp.f32", "wwwp", Make::SelectW),
    ("selp.b16 selp.u16 selp.s16", "hhhp", Make::SelectW),
];

const DOUBLES: &[Line] = &[
    ("mov.b64 mov.u64 mov.s64 mov.f64", "dd", Make::D1(D1::Move)),
    ("not.b64", "dd", Make::D1(D1::Not)),
    ("neg.s64", "dd", Make::D1(D1::Negate)),
    ("abs.s64", "dd", Make::D1(D1::Absolute)),
    ("neg.f64", "dd", Make::D1(D1::NegateF)),
    ("abs.f64", "dd", Make::D1(D1::AbsoluteF)),
    ("sqrt.rn.f64", "dd", Make::D1(D1::SqrtF)),
    ("cvt.rn.f64.u64", "dd", Make::D1(D1::FloatOfUnsigned)),
    ("cvt.rn.f64.s64", "dd", Make::D1(D1::FloatOfSigned)),
    // Generic addresses of global memory are its own.
    ("cvta.global.u64 cvta.to.global.u64 cvta.const.u64 cvta.to.const.u64", "dd", Make::D1(D1::Move)),
    ("cvta.shared.u64", "dd", Make::GenericOfShared),
    ("cvta.to.shared.u64", "dd", Make::SharedOfGeneric),
    ("add.s64 add.u64", "ddd", Make::D2(D2::Add)),
    ("sub.s64 sub.u64", "ddd", Make::D2(D2::Subtract)),
    ("mul.lo.s64 mul.lo.u64", "ddd", Make::D2(D2::Multiply)),
    ("mul.hi.u64", "ddd", Make::D2(D2::MultiplyHighU)),
    ("div.u64", "ddd", Make::D2(D2::DivideU)),
    ("div.s64", "ddd", Make::D2(D2::DivideS)),
    ("rem.u64", "ddd", Make::D2(D2::RemainderU)),
    ("rem.s64", "ddd", Make::D2(D2::RemainderS)),
    ("and.b64", "ddd", Make::D2(D2::And)),
    ("or.b64", "ddd", Make::D2(D2::Or)),
    ("xor.b64", "ddd", Make::D2(D2::Xor)),
    ("min.u64", "ddd", Make::D2(D2::MinU)),
    ("max.u64", "ddd", Make::D2(D2::MaxU)),
    ("min.s64", "ddd", Make::D2(D2::MinS)),
    ("max.s64", "ddd", Make::D2(D2::MaxS)),
    ("add.rn.f64 add.f64", "ddd", Make::D2(D2::AddF)),
    ("sub.rn.f64 sub.f64", "ddd", Make::D2(D2::SubtractF)),
    ("mul.rn.f64 mul.f64", "ddd", Make::D2(D2::MultiplyF)),
    ("div.rn.f64", "ddd", Make::D2(D2::DivideF)),
    ("min.f64", "ddd", Make::D2(D2::MinF)),
    ("max.f64", "ddd", Make::D2(D2::MaxF)),
    ("mad.lo.s64 mad.lo.u64", "dddd", Make::D3(D3::MultiplyAdd)),
    ("fma.rn.f64", "dddd", Make::D3(D3::FmaF)),
    ("shl.b64", "ddw", Make::Shift(Shift::Left)),
    ("shr.u64 shr.b64", "ddw", Make::Shift(Shift::RightU)),
    ("shr.s64", "ddw", Make::Shift(Shift::RightS)),
    ("bfi.b64", "dddww", Make::InsertD),
    ("selp.b64 selp.u64 selp.s64 selp.f64", "dddp", Make::SelectD),
];

const CONVERSIONS: &[Line] = &[
    ("cvt.f32.f16", "wh", Make::W1(W1::FloatOfHalf)),
    ("cvt.f32.bf16", "wh", Make::W1(W1::FloatOfBrain)),
    ("cvt.rn.f16.f32", "hw", Make::W1(W1::HalfOfFloat)),
    ("cvt.rn.bf16.f32", "hw", Make::W1(W1::BrainOfFloat)),
    ("cvt.rna.tf32.f32", "ww", Make::W1(W1::Tf32OfFloat)),
    ("cvt.rn.f16x2.f32", "www", Make::W2(W2::HalvesOfFloats)),
    ("cvt.rn.bf16x2.f32", "www", Make::W2(W2::BrainsOfFloats)),
    ("cvt.rn.f32.s32", "ww", Make::W1(W1::FloatOfSigned)),
    ("cvt.rn.f32.u32", "ww", Make::W1(W1::FloatOfUnsigned)),
    ("cvt.rzi.s32.f32", "ww", Make::W1(W1::SignedOfFloatToZero)),
    ("cvt.rzi.u32.f32", "ww", Make::W1(W1::UnsignedOfFloatToZero)),
    ("cvt.rni.s32.f32", "ww", Make::W1(W1::SignedOfFloatNearest)),
    ("cvt.u16.u32 cvt.u32.u16 cvt.s32.u16", "xx", Make::W1(W1::Low16)),
    ("cvt.u16.u8 cvt.u32.u8 cvt.s32.u8 cvt.u8.u32", "xx", Make::W1(W1::Low8)),
    ("cvt.s32.s8", "wx", Make::W1(W1::Signed8)),
    ("cvt.s16.s8", "hx", Make::W1(W1::Signed8To16)),
    ("cvt.s32.s16", "wx", Make::W1(W1::Signed16)),
    ("cvt.u64.u32 cvt.s64.u32", "dw", Make::WD(WD::Unsigned)),
    ("cvt.u64.u16", "dh", Make::WD(WD::Unsigned)),
    ("cvt.s64.s32", "dw", Make::WD(WD::Signed)),
    ("cvt.f64.f32", "dw", Make::WD(WD::DoubleOfFloat)),
    ("cvt.rn.f64.s32", "dw", Make::WD(WD::DoubleOfSigned)),
    ("cvt.rn.f64.u32", "dw", Make::WD(WD::DoubleOfUnsigned)),
    ("cvt.u32.u64 cvt.s32.s64", "wd", Make::DW(DW::Low)),
    ("cvt.u16.u64", "hd", Make::DW(DW::Low16)),
    ("cvt.rn.f32.f64", "wd", Make::DW(DW::FloatOfDouble)),
    ("cvt.rn.f32.u64", "wd", Make::DW(DW::FloatOfUnsigned)),
    ("cvt.rn.f32.s64", "wd", Make::DW(DW::FloatOfSigned)),
    ("cvt.rzi.s32.f64", "wd", Make::DW(DW::SignedOfDoubleToZero)),
];

const OTHERS: &[Line] = &[
    ("popc.b64", "wd", Make::DW(DW::Popcount)),
    ("clz.b64", "wd", Make::DW(DW::LeadingZeros)),
    ("mul.wide.u32", "dww", Make::W2D(W2D::MultiplyU)),
    ("mul.wide.s32", "dww", Make::W2D(W2D::MultiplyS)),
    ("mad.wide.u32", "dwwd", Make::Wide(false)),
    ("mad.wide.s32", "dwwd", Make::Wide(true)),
    ("mov.pred", "pp", Make::MoveP),
    ("not.pred", "pp", Make::NotP),
    ("and.pred", "ppp", Make::Logic(Logic::And)),
    ("or.pred", "ppp", Make::Logic(Logic::Or)),
    ("xor.pred", "ppp", Make::Logic(Logic::Xor)),
    // Not those of a block: the watch takes a fence for one of the device.
    ("fence.acq_rel.gpu fence.sc.gpu membar.gl", "", Make::Fence),
    ("ret exit", "", Make::Return),
];
