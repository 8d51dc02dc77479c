//! How a block's instructions come to be recorded.

use super::super::block::Block;
use super::super::lanes::{Doubles, Lanes};
use super::super::memory::addresses;
use super::super::op::{Meeting, NONE, Op, Space};
use super::{Asked, Kind, Recorder};

impl Block {
    /// Records the instruction that a warp is about to carry out.
    pub(in super::super) fn record(&mut self, number: usize) {
        let (Some(recorder), warp) = (&mut self.recorder, &mut self.warps[number]) else { return };
        let (lanes, at, _) = warp.together();
        let Some(instruction) = self.entry.code.get(at as usize) else { return };
        let registers = &warp.registers;
        let active = instruction.guard.map_or(lanes, |guard| lanes & registers.guarded(guard));
        recorder.issue(number, at, instruction, active);
        if active == 0 {
            return;
        }
        let in_shared = |address| self.memory.in_shared(address).is_some();
        let mut touch = |kind, space, address, bytes: u32| {
            let places = addresses(registers, address);
            let asked = Asked { at, kind, lanes: active, places: &places, widths: &[bytes; 32] };
            touch(recorder, &asked, space, bytes, in_shared);
        };
        match &instruction.op {
            Op::Load(transfer) | Op::Store(transfer) => {
                let kind = if matches!(instruction.op, Op::Load(_)) { Kind::Load } else { Kind::Store };
                let bytes = u32::from(transfer.cell.bytes) * u32::from(transfer.count);
                touch(kind, transfer.space, transfer.at, bytes);
            }
            Op::Atomic { space, bytes, at, .. } => touch(Kind::Atomic, *space, *at, (*bytes).into()),
            Op::CopyAsync { to, from, bytes, valid } => {
                let bytes = u32::from(*bytes);
                touch(Kind::Copy, Space::Shared, *to, bytes);
                let widths =
                    if *valid == NONE { [bytes; 32] } else { registers.word(*valid).map(|own| own.min(bytes)) };
                let places = addresses(registers, *from);
                recorder.global(&Asked { at, kind: Kind::Copy, lanes: active, places: &places, widths: &widths });
            }
            Op::Meet { what: Meeting::LoadMatrix { count, at: address, .. }, .. } => {
                // The last of a warp's lanes to come carry it out, for all.
                let waiting = Lanes(warp.waiting).filter(|&lane| warp.at[lane as usize] == at);
                if waiting.fold(active, |came, lane| came | 1 << lane) == u32::MAX {
                    recorder.matrices(at, &addresses(registers, *address), *count);
                }
            }
            _ => {}
        }
    }
}

fn touch(recorder: &mut Recorder, asked: &Asked, space: Space, bytes: u32, in_shared: impl Fn(u64) -> bool) {
    match space {
        Space::Shared => recorder.shared(asked, bytes),
        Space::Global => recorder.global(asked),
        Space::Generic => {
            let places: &Doubles = asked.places;
            let inside = Lanes(asked.lanes).filter(|&lane| in_shared(places[lane as usize]));
            let inside = inside.fold(0, |bits, lane| bits | 1 << lane);
            recorder.shared(&Asked { lanes: inside, ..*asked }, bytes);
            recorder.global(&Asked { lanes: asked.lanes & !inside, ..*asked });
        }
        // Parameters and constants have a cache of their own; no kernel here has much local memory.
        Space::Local | Space::Param | Space::Const => {}
    }
}
