package audit

import (
	"bufio"
	"context"
	"encoding/csv"
	"holdfast/appliance/fault"
	"io"
	"strconv"
	"strings"
)

// Export writes all records that a query allows, the newest first, as "jsonl",
// the lines as they stand in the log, or as "csv", with a header. It passes over
// the query's limit.
func (r *Reader) Export(ctx context.Context, q Query, w io.Writer, format string) error {
	out := bufio.NewWriterSize(w, 1<<16)
	var err error
	switch format {
	case "jsonl":
		err = r.walk(ctx, q, func(line []byte) error {
			_, _ = out.Write(line)
			if err := out.WriteByte('\n'); err != nil {
				return notExported(err)
			}
			return nil
		})
	case "csv":
		err = r.exportCSV(ctx, q, out)
	default:
		return fault.Errorf(fault.Invalid, "%.20q is no format of an export; use jsonl or csv", format)
	}
	if err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return notExported(err)
	}
	return nil
}

func notExported(err error) error {
	return fault.Wrapf(fault.AuditIO, err, "the export could not be written")
}

var csvHeader = []string{"seq", "time", "kind", "operation", "result", "error", "key_store", "key", "version",
	"principal", "kms_request_id", "kms_key_arn", "kms_operation", "via_service", "source_vpc", "source_vpce", "policies", "actor", "asked", "before", "after",
	"duration_us", "remote", "detail"}

func (r *Reader) exportCSV(ctx context.Context, q Query, w io.Writer) error {
	out := csv.NewWriter(w)
	if err := out.Write(csvHeader); err != nil {
		return notExported(err)
	}
	err := r.walk(ctx, q, func(line []byte) error {
		rec, err := ParseRecord(line)
		if err != nil {
			return err
		}
		if err := out.Write(rec.cells()); err != nil {
			return notExported(err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	out.Flush()
	if err := out.Error(); err != nil {
		return notExported(err)
	}
	return nil
}

func (r *Record) cells() []string {
	number := func(n uint64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatUint(n, 10)
	}
	duration := ""
	if r.DurationUS != 0 {
		duration = strconv.FormatInt(r.DurationUS, 10)
	}
	c := []string{strconv.FormatInt(r.Seq, 10), string(appendTime(nil, r.Time)), string(r.Kind), r.Operation, string(r.Result),
		r.Error, r.KeyStore, r.Key, number(r.Version), r.Principal, r.KMSRequestID, r.KMSKeyARN, r.KMSOperation, r.ViaService,
		r.SourceVPC, r.SourceVPCE, strings.Join(r.Policies, " "), r.Actor, string(r.Asked), string(r.Before), string(r.After), duration, r.Remote, r.Detail}
	for i := range c {
		c[i] = harmless(c[i])
	}
	return c
}

// harmless keeps a spreadsheet from taking a cell for a formula.
func harmless(cell string) string {
	if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
		return "'" + cell
	}
	return cell
}
