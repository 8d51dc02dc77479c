use super::*;

const LOG: &str = "ptxas info    : 21504 bytes gmem
ptxas info    : Compiling entry function 'twofour_mask_soft_f32_bf16' for 'sm_90a'
ptxas info    : Function properties for twofour_mask_soft_f32_bf16
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 21504 bytes smem, 552 bytes cmem[0]
ptxas info    : Compile time = 21.498 ms
ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to determine register count at entry
";

const SASS: &str = "		Function : twofour_mask_soft_f32_bf16
        /*0000*/                   MOV R0, RZ ;                        /* 0x0 */
        /*0010*/                   LDG.E.128.CONSTANT R12, desc[UR10][R8.64] ;
        /*0020*/                   LDG.E.U16 R3, desc[UR10][R8.64] ;
        /*0030*/                   LDS.64 R50, [R50+-0x1a403] ;
        /*0040*/                   MUFU.EX2 R50, R12 ;
        /*0050*/                   HMMA.SP.16816.F32.BF16 R4, R8, R12, R4, R0, 0x0 ;
        /*0060*/                   STG.E desc[UR10][R8.64], R50 ;
        /*0070*/              @!P0 BRA 0x10 ;
        /*0080*/                   EXIT ;
        /*0090*/                   BRA 0x90;
        /*00a0*/                   NOP;
";

const ELF: &str = ".nv.info.twofour_mask_soft_f32_bf16
	Attribute:	EIATTR_PARAM_CBANK
	Value:	0x2 0x2080210
	Attribute:	EIATTR_MAX_THREADS
	Format:	EIFMT_SVAL
	Value:	0x80 0x2 0x1
";

fn card() -> Result<Card> {
    let compiled = Compiled { log: LOG.into(), sass: SASS.into(), elf: ELF.into() };
    let mut cards = read("mask", "90a", &compiled)?;
    cards.pop().context("no card")
}

#[test]
fn ptxas_is_read() -> Result<()> {
    let card = card()?;
    let expected = Reported { registers: 64, stack: 8, spill_stores: 12, spill_loads: 16, shared: 21504 };
    assert_eq!((card.reported.clone(), card.threads), (expected, 256));
    assert_eq!(card.faults().len(), 2);
    assert_eq!(advisories(LOG, "mask").len(), 1);
    Ok(())
}

#[test]
fn the_main_loop_is_counted() -> Result<()> {
    let card = card()?;
    assert_eq!((card.instructions, card.main_loop), (10, Some(Count { instructions: 7.0, exact: true })));
    assert_eq!(card.per_group(), Some(Count { instructions: 3.5, exact: true }));
    assert_eq!(card.tally.special, 1);
    assert_eq!(card.tally.tensor, BTreeMap::from([("HMMA.SP".to_owned(), 1)]));
    let widths = |kind| card.tally.accesses[kind].iter().map(|(width, count)| (width.0, *count)).collect::<Vec<_>>();
    assert_eq!(widths("LDG"), [(128, 1), (16, 1)]);
    assert_eq!((widths("LDS"), widths("STG")), (vec![(64, 1)], vec![(32, 1)]));
    Ok(())
}

#[test]
fn products_need_their_instructions() -> Result<()> {
    for (kernel, missing) in [
        ("twofour_mask_soft_f32_bf16", &[][..]),
        ("twofour_matmul_output_dense_f16", &["HMMA", "LDSM", "LDGSTS"]),
        ("twofour_matmul_small_codes_f16_16", &[]),
        ("twofour_sparse_tile_bf16", &["LDSM", "LDGSTS"]),
        ("twofour_sparse_small_f16_128", &["LDSM", "LDGSTS"]),
        ("twofour_sparse_small_i8_16", &["IMMA.SP", "LDSM", "LDGSTS"]),
        ("twofour_sparse_sum_i32", &[]),
    ] {
        // The card's loop has one HMMA.SP.
        let card = Card { kernel: kernel.into(), reported: Reported::default(), local_memory: false, ..card()? };
        let expected: Vec<_> =
            missing.iter().map(|of| format!("{kernel} on sm_90a: no {of} in its main loop")).collect();
        assert_eq!(card.faults(), expected);
    }
    Ok(())
}

#[test]
fn local_memory_is_for_totals_alone() -> Result<()> {
    for (kernel, bytes) in [
        ("twofour_mask_soft_f32_bf16", 0),
        ("twofour_matmul_output_dense_f16", 512),
        ("twofour_matmul_step_soft_f32_bf16", 512),
        ("twofour_matmul_sum_f32", 0),
        ("twofour_matmul_small_codes_f16_16", 32),
        ("twofour_matmul_small_soft_f32_bf16_128", 256),
        ("twofour_sparse_tile_bf16", 512),
        ("twofour_sparse_tile_i8", 0),
        ("twofour_sparse_small_f16_16", 64),
        ("twofour_sparse_small_i8_128", 0),
    ] {
        assert_eq!(totals(kernel), bytes, "{kernel}");
        let of = |stack| {
            let reported = Reported { stack, ..Reported::default() };
            let card = Card { kernel: kernel.into(), reported, local_memory: stack > 0, ..card()? };
            anyhow::Ok(card.faults().iter().any(|fault| fault.contains("local memory")))
        };
        assert!(!of(bytes)? && of(bytes + 4)?, "{kernel}");
    }
    Ok(())
}

#[test]
fn groups_follow_the_logits() {
    assert_eq!(groups_a_turn("twofour_mask_soft_f32_bf16"), Some(2));
    assert_eq!(groups_a_turn("twofour_mask_hard_full_bf16_f32"), Some(4));
    assert_eq!(groups_a_turn("twofour_mask_backward_soft_f32_bf16_bf16"), Some(2));
    assert_eq!(groups_a_turn("twofour_mask_backward_soft_bf16_f32_f32"), Some(4));
    assert_eq!(groups_a_turn("twofour_mask_frozen_f32"), Some(2));
    assert_eq!(groups_a_turn("twofour_mask_statistics"), None);
    assert_eq!(groups_a_turn("twofour_matmul_f32_f32"), None);
}

#[test]
fn blocks_by_the_scarcest() {
    let blocks = |arch: &str, registers, shared, threads| {
        let reported = Reported { registers, shared, ..Reported::default() };
        Card { arch: arch.into(), reported, threads, ..Card::default() }.blocks()
    };
    assert_eq!(blocks("90a", 32, 0, 256), Some(8));
    assert_eq!(blocks("90a", 64, 21504, 256), Some(4));
    assert_eq!(blocks("90a", 65, 21504, 256), Some(3));
    assert_eq!(blocks("86", 32, 21504, 256), Some(4));
    assert_eq!(blocks("86", 16, 0, 32), Some(16));
    assert_eq!(blocks("75", 32, 0, 256), None);
}
