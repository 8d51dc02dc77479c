//! The types of tensors in safetensors files.

use twofour::DType;

macro_rules! tensor_types {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $bits:literal, $value_type:expr;)*) => {
        /// A type of tensors that safetensors files know. In increasing order of alignment, in which files are laid out
        /// backwards.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum TensorType {
            $($(#[$doc])* $variant,)*
        }

        impl TensorType {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in a file's header.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Bits of an element.
            #[must_use]
            pub const fn bits(self) -> usize {
                match self { $(Self::$variant => $bits,)* }
            }

            /// The type of compressed values, if they can be of this one.
            #[must_use]
            pub const fn value_type(self) -> Option<DType> {
                match self { $(Self::$variant => $value_type,)* }
            }
        }
    };
}

tensor_types! {
    /// A byte, 0 or 1.
    Bool, "BOOL", 8, None;
    /// OCP MXFP4 elements.
    F4, "F4", 4, None;
    /// OCP MXFP6 elements with two exponent bits.
    F6E2m3, "F6_E2M3", 6, None;
    /// OCP MXFP6 elements with three exponent bits.
    F6E3m2, "F6_E3M2", 6, None;
    /// Bytes.
    U8, "U8", 8, None;
    /// Signed bytes.
    I8, "I8", 8, Some(DType::I8);
    /// [`E5m2`](twofour::E5m2).
    F8E5m2, "F8_E5M2", 8, Some(DType::E5m2);
    /// [`E4m3`](twofour::E4m3).
    F8E4m3, "F8_E4M3", 8, Some(DType::E4m3);
    /// Powers of two, OCP MX scales.
    F8E8m0, "F8_E8M0", 8, None;
    /// The 8-bit format of older AMD hardware.
    F8E4m3Fnuz, "F8_E4M3FNUZ", 8, None;
    /// The other one.
    F8E5m2Fnuz, "F8_E5M2FNUZ", 8, None;
    /// 16-bit integers.
    I16, "I16", 16, None;
    /// Unsigned 16-bit integers.
    U16, "U16", 16, None;
    /// IEEE binary16.
    F16, "F16", 16, Some(DType::F16);
    /// The upper half of binary32.
    Bf16, "BF16", 16, Some(DType::Bf16);
    /// 32-bit integers.
    I32, "I32", 32, None;
    /// Unsigned 32-bit integers.
    U32, "U32", 32, None;
    /// IEEE binary32.
    F32, "F32", 32, Some(DType::F32);
    /// Pairs of binary32.
    C64, "C64", 64, None;
    /// IEEE binary64.
    F64, "F64", 64, None;
    /// 64-bit integers.
    I64, "I64", 64, None;
    /// Unsigned 64-bit integers.
    U64, "U64", 64, None;
}

impl TensorType {
    /// The type of a name in a header, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.name() == name)
    }

    /// The type of the tensor that holds compressed values of a type, if files can have them.
    #[must_use]
    pub fn of_values(value_type: DType) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.value_type() == Some(value_type))
    }

    /// Bytes of a tensor; `None` if they overflow, or if bits are left over.
    #[must_use]
    pub fn bytes(self, shape: &[usize]) -> Option<u64> {
        let elements = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size as u64))?;
        let bits = elements.checked_mul(self.bits() as u64)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
