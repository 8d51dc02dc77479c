//! Special registers: what a thread knows of its place.

/// A special register of 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Special {
    /// `%tid` along an axis.
    Thread(u8),
    /// `%ntid`.
    Threads(u8),
    /// `%ctaid`.
    Block(u8),
    /// `%nctaid`.
    Blocks(u8),
    Lane,
    Warp,
    /// Lanes equal to, before, up to, after, from this one on.
    Mask(Lanes),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Lanes {
    Equal,
    Before,
    UpTo,
    After,
    From,
}

impl Special {
    pub(super) fn named(name: &str) -> Option<Special> {
        let axis = |axis: &str| ["x", "y", "z"].iter().position(|&known| known == axis).map(|axis| axis as u8);
        if let Some((register, of)) = name.split_once('.') {
            let axis = axis(of)?;
            return Some(match register {
                "%tid" => Special::Thread(axis),
                "%ntid" => Special::Threads(axis),
                "%ctaid" => Special::Block(axis),
                "%nctaid" => Special::Blocks(axis),
                _ => return None,
            });
        }
        Some(match name {
            "%laneid" => Special::Lane,
            "%warpid" => Special::Warp,
            "%lanemask_eq" => Special::Mask(Lanes::Equal),
            "%lanemask_lt" => Special::Mask(Lanes::Before),
            "%lanemask_le" => Special::Mask(Lanes::UpTo),
            "%lanemask_gt" => Special::Mask(Lanes::After),
            "%lanemask_ge" => Special::Mask(Lanes::From),
            _ => return None,
        })
    }

    /// The value in a lane of a warp of a block.
    pub(super) fn value(self, warp: u32, lane: u32, size: [u32; 3], block: [u32; 3], blocks: [u32; 3]) -> u32 {
        let thread = 32 * warp + lane;
        match self {
            Special::Thread(axis) => {
                [thread % size[0], thread / size[0] % size[1], thread / size[0] / size[1]][axis as usize]
            }
            Special::Threads(axis) => size[axis as usize],
            Special::Block(axis) => block[axis as usize],
            Special::Blocks(axis) => blocks[axis as usize],
            Special::Lane => lane,
            Special::Warp => warp,
            Special::Mask(lanes) => {
                let own = 1u32 << lane;
                match lanes {
                    Lanes::Equal => own,
                    Lanes::Before => own - 1,
                    Lanes::UpTo => own | (own - 1),
                    Lanes::After => !(own | (own - 1)),
                    Lanes::From => !(own - 1),
                }
            }
        }
    }
}
