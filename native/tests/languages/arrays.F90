! SPDX-License-Identifier: BSD-3-Clause
! arrays: the Fortran module with every type and rank, its errors, and what frees and moves an array.
#define D1 :
#define D2 :, :
#define D3 :, :, :
#define D4 :, :, :, :
#define D5 :, :, :, :, :
#define D6 :, :, :, :, :, :
#define D7 :, :, :, :, :, :, :
#define TRY(TYPE, RANK, DIMENSIONS, VALUE) block; TYPE, pointer, contiguous :: a(DIMENSIONS); call numalloc_array(a, extents(1:RANK), zero=.true.); call check(all(a == 0) .and. all(shape(a) == extents(1:RANK)) .and. all(lbound(a) == 1), 'TYPE RANK'); a = VALUE; call check(all(a == VALUE) .and. numalloc_usable_size(c_loc(a)) >= storage_size(a) / 8 * size(a), 'TYPE RANK values'); call numalloc_free(a); call check(.not. associated(a), 'TYPE RANK free'); call numalloc_array(a, int(extents(1:RANK), int64), strict=.true.); a = VALUE; call numalloc_free(a); call numalloc_array(a, extents(1:RANK) * 0); call check(associated(a) .and. size(a) == 0, 'TYPE RANK empty'); call numalloc_free(a); call check(.not. associated(a), 'TYPE RANK empty free'); end block
#define RANKS(TYPE, VALUE) TRY(TYPE, 1, D1, VALUE); TRY(TYPE, 2, D2, VALUE); TRY(TYPE, 3, D3, VALUE); TRY(TYPE, 4, D4, VALUE); TRY(TYPE, 5, D5, VALUE); TRY(TYPE, 6, D6, VALUE); TRY(TYPE, 7, D7, VALUE)
program arrays
  use, intrinsic :: iso_c_binding
  use numa_alloc
  implicit none
  integer, parameter :: extents(7) = [9, 2, 3, 1, 4, 2, 3]
  integer :: failures = 0

  RANKS(real(real32), 1.5)
  RANKS(real(real64), 2.5_real64)
  RANKS(complex(real32), (1.0, -2.0))
  RANKS(complex(real64), (3.0_real64, 4.0_real64))
  RANKS(integer(int32), -7)
  RANKS(integer(int64), 2_int64**40)
  call homes()
  call errors()
  call bounds()
  call check(numalloc_verify() == 0, 'numalloc_verify')
  if (failures > 0) error stop 1
  print '(a)', 'arrays: ok'

contains

  subroutine check(condition, what)
    logical, intent(in) :: condition
    character(*), intent(in) :: what
    if (condition) return
    failures = failures + 1
    print '(2a)', 'arrays: FAILED: ', what
  end subroutine

  subroutine homes()
    real(real64), pointer, contiguous :: a(:, :), b(:)
    integer :: node
    node = numalloc_current_node()
    call numalloc_array(a, [1000, 300], node=node, strict=.true.)
    call check(numalloc_node_of(c_loc(a)) == node, 'the home of node=')
    call numalloc_free(a)
    call numalloc_array(b, [2**21], policy=NUMALLOC_INTERLEAVE, populate=.true.)
    b = 1
    call numalloc_free(b)
    call numalloc_array(b, [100000], policy=NUMALLOC_BLOCKED, nodes=[node], stripe=65536_int64)
    b = 2
    call check(sum(b) == 200000, 'blocked')
    call numalloc_free(b)
    call numalloc_array(b, [100000], policy=NUMALLOC_WEIGHTED, nodes=[node], weights=[200], strict=.true.)
    b = 3
    call check(sum(b) == 300000 .and. numalloc_node_of(c_loc(b)) == node, 'weighted')
    call numalloc_free(b)
    call by_kind()
  end subroutine

  ! 61 is ENODATA: the machine does not tell which nodes are of the kind.
  subroutine by_kind()
    real(real64), pointer, contiguous :: a(:)
    integer, parameter :: kinds(3) = [NUMALLOC_KIND_BANDWIDTH, NUMALLOC_KIND_LATENCY, NUMALLOC_KIND_CAPACITY]
    integer :: i, stat
    do i = 1, 3
      call numalloc_array(a, [100000], policy=kinds(i), strict=.true., stat=stat)
      call check(stat == 0 .or. stat == 61, 'by kind')
      if (stat /= 0) cycle
      a = i
      call check(sum(a) == 100000 * i .and. numalloc_node_of(c_loc(a)) >= 0, 'an array by kind')
      call numalloc_free(a)
    end do
  end subroutine

  subroutine errors()
    real(real32), pointer, contiguous :: a(:, :)
    real(real32), target :: static(2, 2)
    character(120) :: text
    integer :: stat
    text = 'unchanged'
    call numalloc_array(a, [3, 3], stat=stat, errmsg=text)
    call check(stat == 0 .and. text == 'unchanged', 'stat 0')
    call numalloc_free(a)
    call numalloc_array(a, [3], stat=stat, errmsg=text)
    call check(stat == 22 .and. .not. associated(a) .and. index(text, 'shape') > 0, 'shape of another rank')
    call numalloc_array(a, [2_int64**40, 2_int64**40], stat=stat, errmsg=text)
    call check(stat == 12 .and. index(text, '2**63') > 0, 'a product that overflows')
    call numalloc_array(a, [2_int64**30, 2_int64**30], stat=stat, errmsg=text)
    call check(stat == 12 .and. .not. associated(a), 'more than there is')
    call check(index(text, '4611686018427387904 bytes') > 0, 'the message names the bytes')
    call numalloc_array(a, [2, 2], node=1023, strict=.true., stat=stat, errmsg=text)
    call check(stat == 19 .and. .not. associated(a), 'a node that is not there')
    call numalloc_array(a, [2, 2], policy=NUMALLOC_INTERLEAVE, nodes=[-1], stat=stat, errmsg=text)
    call check(stat == 19 .and. index(text, 'node -1') > 0, 'a node that can not be')
    call numalloc_array(a, [2, 2], nodes=[0], stat=stat, errmsg=text)
    call check(stat == 22 .and. index(text, 'nodes=') > 0, 'nodes without a policy for them')
    call numalloc_array(a, [2, 2], policy=NUMALLOC_ONNODE, stat=stat, errmsg=text)
    call check(stat == 22, 'on a node without one')
    call numalloc_array(a, [2, 2], stripe=4096_int64, stat=stat, errmsg=text)
    call check(stat == 22, 'stripe without blocked')
    call numalloc_array(a, [2, 2], policy=NUMALLOC_WEIGHTED, weights=[1], stat=stat, errmsg=text)
    call check(stat == 22 .and. index(text, 'weights=') > 0, 'weights without nodes')
    call numalloc_array(a, [2, 2], policy=NUMALLOC_WEIGHTED, nodes=[0], weights=[256], stat=stat, errmsg=text)
    call check(stat == 22 .and. index(text, '0 to 255') > 0, 'a weight that is none')
    call numalloc_array(a, [2, 2], policy=NUMALLOC_WEIGHTED, nodes=[0], weights=[1, 2], stat=stat, errmsg=text)
    call check(stat == 22 .and. index(text, 'each of nodes') > 0, 'more weights than nodes')
    call numalloc_array(a, [2, 2], policy=NUMALLOC_WEIGHTED, nodes=[0], weights=[0], stat=stat)
    call check(stat == 22, 'no weight at all')
    call numalloc_array(a, [2, 2], policy=77, stat=stat)
    call check(stat == 22, 'no such policy')
    call numalloc_array(a, [-5, 2], stat=stat)
    call check(stat == 0 .and. size(a) == 0, 'a negative extent is an empty array')
    call numalloc_free(a)
    a => static
    call numalloc_free(a, stat=stat, errmsg=text)
    call check(stat == 14 .and. associated(a), 'an array of others')
    nullify (a)
    call numalloc_free(a, stat=stat)
    call check(stat == 0, 'a null pointer')
  end subroutine

  subroutine bounds()
    integer(int32), pointer :: a(:), inner(:)
    integer :: stat
    call numalloc_array(a, [100])
    a = 3
    a(0:) => a
    inner => a(10:)
    call numalloc_free(inner, stat=stat)
    call check(stat == 14 .and. associated(inner), 'a part of an array')
    call check(lbound(a, 1) == 0 .and. sum(a) == 300, 'other bounds')
    call numalloc_free(a, stat=stat)
    call check(stat == 0, 'freed with other bounds')
  end subroutine
end program
