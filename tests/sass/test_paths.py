"""Ways through a kernel's control flow, on code small enough to count by hand."""

from .loops import find_loops
from .paths import forward_paths, read_instructions

# A loop from 0x10 to 0x70, with a branch around two instructions, one of them a call, and a loop of two instructions.
CODE = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.128 R4, [R2.64] ;
        /*0020*/              @P0 BRA 0x50 ;
        /*0030*/                   FADD R4, R4, R5 ;
        /*0040*/                   CALL.REL.NOINC 0xa0 ;
        /*0050*/                   FADD R4, R4, R6 ;
        /*0060*/              @P2 BRA 0x50 ;
        /*0070*/             @!P1 BRA 0x10 ;
        /*0080*/                   NOP ;
        /*0090*/                   EXIT ;
        /*00a0*/                   RET.REL.NODEC R2 0x0 ;
"""


def test_loops_are_backward_branches():
    assert [(loop.begin, loop.end, loop.depth, loop.instructions) for loop in find_loops(CODE)] == [
        (0x10, 0x70, 0, 7),
        (0x50, 0x60, 1, 2),
    ]


def test_branches_have_a_shorter_and_a_longer_way_and_inner_loops_count_once():
    code = read_instructions(CODE)
    assert forward_paths(code, 0x10, 0x70) == (5, 7)
    assert forward_paths(code, 0x10, 0x70, avoid=[0x40]) == (5, 5)  # the longer way calls
    assert forward_paths(code, 0x0, 0x90) == (7, 9)  # NOP does not count


def test_nothing_follows_an_exit():
    assert forward_paths(read_instructions(CODE), 0x10, 0xA0) is None
