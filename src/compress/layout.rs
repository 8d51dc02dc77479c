//! Every layout of a compressed weight, as a table.
//!
//! Kept values are row-major in all of them (CUTLASS pads the rows of some); what differs is where codes lie. A layout
//! is a **tile** of rows by groups whose codes are contiguous, and the order of tiles. Inside, row and group number are
//! cut into digits, lowest first, and each digit has a stride in codes (half bytes): the code of a row and a group lies
//! at the sum of digit · stride of both, the low nibble first. So an index is a row's part plus a group's part, and a
//! kernel needs two small tables, or a few shifts. `(8:32)(2:4)` reads: the lowest digit counts to 8 with stride 32,
//! the next to 2 with stride 4.
//!
//! | [`Layout`] | values | rows of a tile | groups of a tile | tiles | padded to | read by |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | `Plain` | all | | | along a row | nothing | this crate's files, mask op and CPU executor |
//! | `CutlassSm80` | f16 bf16 f32 | `(8:32)(2:4)(2:16)` | `(4:1)(2:8)` | down first | 32 rows, 8 groups | CUTLASS 2.x, `mma.sp` kernels, PyTorch |
//! | `CutlassSm80` | i8 e4m3 e5m2 | `(8:32)(2:8)` | `(8:1)(2:16)` | down first | 16 rows, 16 groups | the same |
//! | `CusparseltMma`, < 256 rows | f16 bf16 | `(8:32)(2:4)(2:16)` | `(4:1)(2:8)` | down first | as the library sizes it | cuSPARSELt on sm_80, 86, 89, 120 |
//! | `CusparseltMma`, else | f16 bf16 | `(8:32)(2:4)(2:16)(4:256)` | `(4:1)(2:1024)` | down first | nothing: 128 rows, 64 columns | the same |
//! | `CusparseltSm86Int8` | i8 | `(2:8)(4:256)(8:32)` | `(4:1)(2:4)(2:16)` | down first | as the library sizes it | cuSPARSELt on sm_86, < 256 rows |
//! | `CusparseltSm90` | f16 bf16 | `(8:16)(2:1)(4:128)` | `(4:4)(2:2)` | along a row | nothing: 64 rows, 64 columns | cuSPARSELt on sm_90 |
//! | `CutlassSm90`, `n` = MinTileK / block | f16 bf16 f32 | `(8:8n)(2:4)(4:128n)` | `(4:1)(2:64n)(n:8)` | down first | a tile | CUTLASS 3.x on sm_90 |
//! | `CutlassSm90`, `k` = MinTileK / 4 | i8 e4m3 e5m2 | `(64:k)` | `(k:1)` | down first | a tile | the same |
//! | `CutlassSm100` | f16 bf16 f32 | `(8:32)(2:4)(8:512)` | `(4:1)(2:256)(4:8)` | down first | a tile | CUTLASS 3.x on sm_100 |
//! | `CutlassSm100` | i8 e4m3 e5m2 | `(128:32)` | `(32:1)` | down first | a tile | the same |
//!
//! A group is four columns, for `f32` two. Bytes of metadata that hold no code are `0xEE`. How sure each layout is, as
//! [`Layout::evidence`] says:
//!
//! | [`Layout`] | how sure |
//! | --- | --- |
//! | `Plain` | canonical: this crate's own |
//! | `CutlassSm80` | equal to PyTorch's own conversion bit for bit; 8-bit floating point derived from `i8` |
//! | `CusparseltMma` | measured by others (A100, RTX 3060, RTX 5090) |
//! | `CusparseltSm86Int8` | measured by one source |
//! | `CusparseltSm90` | read in torchao's source, never compared with the library |
//! | `CutlassSm90`, of which `MinTileK` must be the kernel's; `CutlassSm100` | read in CUTLASS' source |
//!
//! [`Layout::cusparselt`] names the likely one for a device. There is no single cuSPARSELt layout, and none is
//! documented: a buffer made here is handed to the library only after a probe matrix, compressed by the library itself
//! on that device, has come out the same.

use super::value::Sparsity;
use crate::element::DType;
use crate::error::{Error, Result};
use crate::shape::Shape;
use tile::{Order, Tile};

mod map;
mod tile;

pub(crate) use map::Run;
pub use map::{Map, Place};
pub use tile::Digit;

/// How codes are arranged, and for whom; see the [module](self) for the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Layout {
    /// Row-major: the canonical form.
    Plain,
    /// The reordered metadata of CUTLASS' Ampere kernels (`tools/util/include/cutlass/util/host_reorder.h` with
    /// `ColumnMajorInterleaved<2>`), which PyTorch's conversion makes too. A warp's one 128-byte load of a tile is the
    /// metadata register of two `m16n8k32` (16-bit; selector 0: rows 0 to 15, selector 1: rows 16 to 31), or of one
    /// `m16n8k64` (8-bit).
    CutlassSm80,
    /// What cuSPARSELt's compressor writes for 16-bit values where its kernels run `mma.sp`. From 256 rows on known for
    /// multiples of 128 rows and 64 columns alone. Sources: xFormers' and PyTorch's metadata for cuSPARSELt (A100),
    /// SpecLink (sm_120), VirtualGPU (sm_86, below 256 rows, and the sizes).
    CusparseltMma,
    /// What cuSPARSELt 0.10 writes for `i8` on sm_86 below 256 rows. Source: VirtualGPU's measurements. The metadata
    /// has twice the bytes that its codes fill.
    CusparseltSm86Int8,
    /// What cuSPARSELt is said to write for 16-bit values on Hopper, for multiples of 64 rows and columns. Source:
    /// torchao pull request 2012 (`MetadataCusparseLt16bitsSm90`); never compared with the library in public.
    CusparseltSm90,
    /// `E` of CUTLASS' Hopper kernels (`sm90_sparse_config.inl`). It depends on the kernel: MinTileK must be the one
    /// the kernel was instantiated with.
    CutlassSm90(MinTileK),
    /// `E` of CUTLASS' Blackwell kernels (`sm1xx_sparse_config.inl`).
    CutlassSm100,
}

/// CUTLASS' `MinTileShapeK`: the columns of a Hopper kernel's tile, 128 at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MinTileK {
    /// 16 columns: `f32`.
    K16,
    /// 32 columns: `f32` and 16-bit.
    K32,
    /// 64 columns: all.
    K64,
    /// 128 columns: all.
    K128,
}

impl MinTileK {
    /// Columns.
    #[must_use]
    pub const fn columns(self) -> usize {
        match self {
            Self::K16 => 16,
            Self::K32 => 32,
            Self::K64 => 64,
            Self::K128 => 128,
        }
    }
}

/// How a layout is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Evidence {
    /// Concluded from a similar one.
    Derived,
    /// Read from the source of those who make or read it; not compared with their output.
    Read,
    /// Others read it off the consumer's output on a GPU.
    Measured,
    /// Equal, bit for bit, to what the consumer's own code makes: a test of this crate sees to it.
    Reproduced,
}

/// What a compressed weight measures in a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sizes {
    /// Values from a row to the next: K/2, or more where rows are padded.
    pub pitch: usize,
    /// Values, padding included.
    pub values: usize,
    /// Bytes of metadata, padding included.
    pub metadata: usize,
    /// Byte at which metadata begins where both share a buffer, right behind the values.
    pub metadata_offset: usize,
    /// Bytes of that buffer.
    pub buffer: usize,
}

impl Layout {
    /// All layouts.
    pub const ALL: [Self; 10] = [
        Self::Plain,
        Self::CutlassSm80,
        Self::CusparseltMma,
        Self::CusparseltSm86Int8,
        Self::CusparseltSm90,
        Self::CutlassSm90(MinTileK::K16),
        Self::CutlassSm90(MinTileK::K32),
        Self::CutlassSm90(MinTileK::K64),
        Self::CutlassSm90(MinTileK::K128),
        Self::CutlassSm100,
    ];

    /// The name used in messages and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::CutlassSm80 => "cutlass-sm80",
            Self::CusparseltMma => "cusparselt-mma",
            Self::CusparseltSm86Int8 => "cusparselt-sm86-int8",
            Self::CusparseltSm90 => "cusparselt-sm90",
            Self::CutlassSm90(MinTileK::K16) => "cutlass-sm90-k16",
            Self::CutlassSm90(MinTileK::K32) => "cutlass-sm90-k32",
            Self::CutlassSm90(MinTileK::K64) => "cutlass-sm90-k64",
            Self::CutlassSm90(MinTileK::K128) => "cutlass-sm90-k128",
            Self::CutlassSm100 => "cutlass-sm100",
        }
    }

    /// The layout that cuSPARSELt most likely writes and reads on a device of this compute capability, or `None` where
    /// none is known: then let the library compress. Even so it is a guess until a probe matrix agrees.
    #[must_use]
    pub fn cusparselt(capability: (u32, u32), value_type: DType, shape: Shape) -> Option<Self> {
        use DType::{Bf16, F16, I8};
        let layout = match (capability, value_type) {
            ((8, 0 | 6 | 7 | 9) | (12, _), F16 | Bf16) => Self::CusparseltMma,
            ((8, 6), I8) => Self::CusparseltSm86Int8,
            ((9, 0), F16 | Bf16) => Self::CusparseltSm90,
            _ => return None,
        };
        layout.check(shape, value_type).is_ok().then_some(layout)
    }

    /// Whether the layout holds values of this type, in some shape.
    #[must_use]
    pub fn supports(self, value_type: DType) -> bool {
        let (two_bytes, one_byte) = (value_type.size() == 2, value_type.size() == 1);
        match self {
            _ if value_type == DType::I32 => false,
            Self::Plain | Self::CutlassSm80 | Self::CutlassSm100 => true,
            Self::CusparseltMma | Self::CusparseltSm90 => two_bytes,
            Self::CusparseltSm86Int8 => value_type == DType::I8,
            Self::CutlassSm90(MinTileK::K16) => value_type == DType::F32,
            Self::CutlassSm90(MinTileK::K32) => !one_byte,
            Self::CutlassSm90(MinTileK::K64 | MinTileK::K128) => true,
        }
    }

    /// How sure the layout is for values of this type.
    #[must_use]
    pub fn evidence(self, value_type: DType) -> Evidence {
        match self {
            Self::Plain => Evidence::Reproduced,
            Self::CutlassSm80 if matches!(value_type, DType::E4m3 | DType::E5m2) => Evidence::Derived,
            Self::CutlassSm80 => Evidence::Reproduced,
            Self::CusparseltMma | Self::CusparseltSm86Int8 => Evidence::Measured,
            Self::CusparseltSm90 | Self::CutlassSm90(_) | Self::CutlassSm100 => Evidence::Read,
        }
    }

    /// Checks that the layout holds such a weight.
    ///
    /// # Errors
    /// As [`Shape::check`]; [`Error::Layout`] for other types of values, and for shapes in which the layout is not
    /// known.
    pub fn check(self, shape: Shape, value_type: DType) -> Result<()> {
        shape.check()?;
        let Shape { rows, cols } = shape;
        let multiples = |of_rows, of_cols| rows.is_multiple_of(of_rows) && cols.is_multiple_of(of_cols);
        let because = if !self.supports(value_type) {
            "it is not for such values"
        } else if self == Self::CusparseltMma && rows >= SWITCH && !multiples(128, 64) {
            "from 256 rows on it is known for multiples of 128 rows and 64 columns alone"
        } else if self == Self::CusparseltSm86Int8 && rows >= SWITCH {
            "it is known below 256 rows alone"
        } else if self == Self::CusparseltSm90 && !multiples(64, 64) {
            "it is known for multiples of 64 rows and columns alone"
        } else {
            return Ok(());
        };
        let (rows, cols) = (rows as u64, cols as u64);
        Err(Error::Layout { layout: self.name(), dtype: value_type.name(), rows, cols, because })
    }

    /// What a weight measures in the layout.
    ///
    /// # Errors
    /// As [`check`](Self::check), and [`Error::Overflow`] if it does not fit the address space.
    pub fn sizes(self, shape: Shape, value_type: DType) -> Result<Sizes> {
        let metadata = self.map(shape, value_type)?.bytes();
        let kept = shape.cols / 2;
        // CUTLASS 3.x loads the rows of A with TMA, which wants them on 16-byte boundaries.
        let pitch = match self {
            Self::CutlassSm90(_) | Self::CutlassSm100 => kept.next_multiple_of(16 / value_type.size()),
            _ => kept,
        };
        let values =
            shape.rows.checked_mul(pitch).and_then(|values| Some((values, values.checked_mul(value_type.size())?)));
        let all = values.and_then(|(values, bytes)| Some((values, bytes, bytes.checked_add(metadata)?)));
        match all {
            Some((values, metadata_offset, buffer)) if buffer <= isize::MAX as usize => {
                Ok(Sizes { pitch, values, metadata, metadata_offset, buffer })
            }
            _ => Err(overflow(shape)),
        }
    }

    /// Where the code of each row and group lies.
    ///
    /// # Errors
    /// As [`sizes`](Self::sizes).
    pub fn map(self, shape: Shape, value_type: DType) -> Result<Map> {
        self.check(shape, value_type)?;
        let groups = Sparsity::of(value_type).row_groups(shape.cols);
        let map = Map::new(self.tile(shape.rows, value_type), shape.rows, groups, self.room(shape, value_type));
        map.ok_or_else(|| overflow(shape))
    }

    /// The row of the table above.
    fn tile(self, rows: usize, value_type: DType) -> Tile {
        let bytewise = value_type.size() == 1;
        match self {
            Self::Plain => Tile::new(Order::AlongRow, [], []),
            Self::CutlassSm80 if bytewise => Tile::new(Order::DownFirst, [(8, 32), (2, 8)], [(8, 1), (2, 16)]),
            Self::CusparseltMma if rows >= SWITCH => {
                Tile::new(Order::DownFirst, [(8, 32), (2, 4), (2, 16), (4, 256)], [(4, 1), (2, 8), (2, 1024)])
            }
            Self::CutlassSm80 | Self::CusparseltMma => {
                Tile::new(Order::DownFirst, [(8, 32), (2, 4), (2, 16)], [(4, 1), (2, 8)])
            }
            Self::CusparseltSm86Int8 => {
                Tile::new(Order::DownFirst, [(2, 8), (4, 256), (8, 32)], [(4, 1), (2, 4), (2, 16)])
            }
            Self::CusparseltSm90 => Tile::new(Order::AlongRow, [(8, 16), (2, 1), (4, 128)], [(4, 4), (2, 2)]),
            Self::CutlassSm90(tile) if bytewise => {
                let k = tile.columns() / 4;
                Tile::new(Order::DownFirst, [(64, k)], [(k, 1)])
            }
            Self::CutlassSm90(tile) => {
                // Blocks of eight groups: one instruction's K.
                let n = Sparsity::of(value_type).row_groups(tile.columns()) / 8;
                Tile::new(Order::DownFirst, [(8, 8 * n), (2, 4), (4, 128 * n)], [(4, 1), (2, 64 * n), (n, 8)])
            }
            Self::CutlassSm100 if bytewise => Tile::new(Order::DownFirst, [(128, 32)], [(32, 1)]),
            Self::CutlassSm100 => Tile::new(Order::DownFirst, [(8, 32), (2, 4), (8, 512)], [(4, 1), (2, 256), (4, 8)]),
        }
    }

    /// Bytes that cuSPARSELt reserves for metadata (VirtualGPU's measurements), of which codes may fill a part; 0 for
    /// the layouts that are as large as their tiles.
    fn room(self, Shape { rows, cols }: Shape, value_type: DType) -> usize {
        let area = |of_rows, of_cols| {
            let padded = |x: usize, to| x.checked_next_multiple_of(to).unwrap_or(usize::MAX);
            padded(rows, of_rows).saturating_mul(padded(cols, of_cols))
        };
        match (self, Sparsity::of(value_type)) {
            (Self::CusparseltMma, Sparsity::TwoFour) => area(32, 64).max(area(64, 32)) / 8,
            (Self::CusparseltSm86Int8, _) => area(64, 128) / 4,
            _ => 0,
        }
    }
}

/// Rows from which cuSPARSELt arranges codes otherwise.
const SWITCH: usize = 256;

fn overflow(shape: Shape) -> Error {
    Error::Overflow { what: "metadata", rows: shape.rows as u64, cols: shape.cols as u64 }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
