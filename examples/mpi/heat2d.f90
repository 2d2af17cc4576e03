! SPDX-License-Identifier: BSD-3-Clause
!
! 2-D heat equation in Fortran with MPI: arrays on the node of the rank that uses them.
!
!     mpirun -n 2 ./heat2d_fortran [points along an edge] [sweeps]
!
! Columns are dealt over the ranks; neighbours exchange one column each before a sweep. numalloc_array puts a rank's columns
! on its node, whichever thread touches them first. u(0) = sin(pi x) sin(pi y) is an eigenvector of the sweep (the mean of
! four neighbours), which shrinks it by cos(pi h). The result is checked against that; exit 1 if it is wrong.
program heat2d
  use, intrinsic :: iso_c_binding, only: c_loc
  use mpi_f08
  use numa_alloc
  implicit none
  real(real64), parameter :: pi = acos(-1.0_real64)
  real(real64), pointer, contiguous :: u(:, :), next(:, :), swapped(:, :)
  real(real64) :: h, shrunk, worst, began, took
  integer :: rank, ranks, n, sweeps, first, columns, left, right, i, j, s
  logical :: good

  call MPI_Init()
  call MPI_Comm_rank(MPI_COMM_WORLD, rank)
  call MPI_Comm_size(MPI_COMM_WORLD, ranks)
  n = argument(1, 1024)
  sweeps = argument(2, 100)
  if (n < ranks .or. sweeps < 1) then
    if (rank == 0) print '(a)', 'heat2d_fortran: points are at least the number of ranks, and sweeps at least 1'
    call MPI_Abort(MPI_COMM_WORLD, 2)
  end if
  first = int(int(rank, int64) * n / ranks)
  columns = int(int(rank + 1, int64) * n / ranks) - first
  left = merge(rank - 1, MPI_PROC_NULL, rank > 0)
  right = merge(rank + 1, MPI_PROC_NULL, rank < ranks - 1)

  call numalloc_array(u, [n + 2, columns + 2], zero=.true.)
  call numalloc_array(next, [n + 2, columns + 2], zero=.true.)
  u(0:, 0:) => u
  next(0:, 0:) => next
  h = 1.0_real64 / (n + 1)
  do j = 1, columns
    u(1:n, j) = [(sin(pi * h * i) * sin(pi * h * (first + j)), i = 1, n)]
  end do

  began = MPI_Wtime()
  do s = 1, sweeps
    call MPI_Sendrecv(u(:, 1), n + 2, MPI_REAL8, left, 0, u(:, columns + 1), n + 2, MPI_REAL8, right, 0, &
                      MPI_COMM_WORLD, MPI_STATUS_IGNORE)
    call MPI_Sendrecv(u(:, columns), n + 2, MPI_REAL8, right, 1, u(:, 0), n + 2, MPI_REAL8, left, 1, &
                      MPI_COMM_WORLD, MPI_STATUS_IGNORE)
    do j = 1, columns
      do i = 1, n
        next(i, j) = 0.25_real64 * (u(i - 1, j) + u(i + 1, j) + u(i, j - 1) + u(i, j + 1))
      end do
    end do
    swapped => u
    u => next
    next => swapped
  end do
  took = MPI_Wtime() - began

  shrunk = cos(pi * h)**sweeps
  worst = 0
  do j = 1, columns
    do i = 1, n
      worst = max(worst, abs(u(i, j) - shrunk * sin(pi * h * i) * sin(pi * h * (first + j))))
    end do
  end do
  call MPI_Allreduce(MPI_IN_PLACE, worst, 1, MPI_REAL8, MPI_MAX, MPI_COMM_WORLD)
  good = worst <= 1e-14_real64 * (sweeps + 10)
  print '(a, i0, a, i0, a, i0)', 'rank ', rank, ' runs on node ', numalloc_current_node(), &
    ', its columns are at home on node ', numalloc_node_of(c_loc(u))
  call numalloc_free(u)
  call numalloc_free(next)
  call MPI_Barrier(MPI_COMM_WORLD)
  if (rank == 0) print '(3a, i0, a, i0, a, f0.3, a, es8.1)', 'heat2d_fortran ', trim(merge('ok    ', 'FAILED', good)), ': ', n, &
    ' points along an edge, ', sweeps, ' sweeps in ', took, ' s, max error ', worst
  call MPI_Finalize()
  if (.not. good) error stop 1

contains

  integer function argument(position, standard)
    integer, intent(in) :: position, standard
    character(32) :: text
    integer :: failed
    argument = standard
    if (command_argument_count() < position) return
    call get_command_argument(position, text)
    read (text, *, iostat=failed) argument
    if (failed /= 0) argument = -1
  end function
end program
