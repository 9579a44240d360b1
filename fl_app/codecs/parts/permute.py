"""Table look-up of 16 nibbles at a time by AVX2's ``vpermps``, where the processor has it.

Numba has no name for that instruction, so the code is LLVM's intermediate representation. A plain
loop takes a load from memory for every value. A table of 16 values fits two registers, in each of
which one instruction finds 8 values. docs/codecs.md says what that is worth.
"""

from __future__ import annotations

from typing import Any

from fl_app.codecs.parts.compiled import numba

AVAILABLE = False

if numba is not None:
    from llvmlite import ir
    from numba.core import cgutils, registry, types
    from numba.extending import intrinsic

    # What numba compiles for, also when told not to use all that the processor can.
    AVAILABLE = "+avx2" in registry.cpu_target.target_context.codegen().magic_tuple()[2].split(",")

    _U8, _I32, _F32 = ir.IntType(8), ir.IntType(32), ir.FloatType()
    _BYTES, _INDICES = ir.VectorType(_U8, 8), ir.VectorType(_I32, 8)
    _EIGHT, _SIXTEEN = ir.VectorType(_F32, 8), ir.VectorType(_F32, 16)

    def _look_up(typing: Any, packed: Any, table: Any, scale: Any, out: Any) -> Any:
        """Write ``table[nibble] * scale`` for 16 nibbles, the high one of each byte first.

        Parameters
        ----------
        packed : uint8 [8]
        table : float32 [16]
        scale : float32
        out : float32 [16]
        """
        del typing

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def pointer(i: int, kind: ir.Type) -> ir.Value:
                array = context.make_array(signature.args[i])(context, builder, args[i])
                return builder.bitcast(array.data, kind.as_pointer())

            def constant(kind: ir.VectorType, number: int) -> ir.Constant:
                return ir.Constant(kind, [number] * kind.count)

            def shuffle(a: ir.Value, b: ir.Value, order: list[int]) -> ir.Value:
                kind = ir.VectorType(_I32, len(order))
                return builder.shuffle_vector(a, b, ir.Constant(kind, order))

            both = builder.load(pointer(1, _SIXTEEN), align=4)
            halves = [shuffle(both, both, list(range(start, start + 8))) for start in (8, 0)]
            bytes_ = builder.load(pointer(0, _BYTES), align=1)
            high = builder.lshr(bytes_, constant(_BYTES, 4))
            low = builder.and_(bytes_, constant(_BYTES, 15))
            permute = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_EIGHT, [_EIGHT, _INDICES]), "llvm.x86.avx2.permps"
            )
            values = []
            for start in (0, 4):
                order = [j for i in range(start, start + 4) for j in (i, 8 + i)]
                at = builder.zext(shuffle(high, low, order), _INDICES)
                # vpermps looks at the low 3 bits of an index, the fourth says in which half.
                upper = builder.icmp_unsigned(">", at, constant(_INDICES, 7))
                found = [builder.call(permute, [half, at]) for half in halves]
                values.append(builder.select(upper, found[0], found[1]))
            scales = builder.insert_element(ir.Constant(_SIXTEEN, ir.Undefined), args[2], _I32(0))
            scales = shuffle(scales, scales, [0] * 16)
            product = builder.fmul(shuffle(values[0], values[1], list(range(16))), scales)
            builder.store(product, pointer(3, _SIXTEEN), align=4)
            return context.get_dummy_value()

        return types.void(packed, table, scale, out), generate

    look_up: Any = intrinsic(_look_up)
