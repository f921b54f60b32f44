package operation

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// The limits of a file of keys or grants.
const (
	// MaxFile bounds the file, in bytes.
	MaxFile = 8 << 20
	// MaxFileRows bounds its rows, and maxFileLine a line of it, in bytes.
	MaxFileRows = 50_000
	maxFileLine = 16 << 10
	// fileBatch is how many things are made in one change of the state. Other changes wait
	// meanwhile, and the TPM's counter is raised once.
	fileBatch = 500
	// stepTime is how long a request goes on: keys in an HSM take long, and the batch at hand is
	// ended. So no other node takes it for lost ([idempotency.Run.Within]).
	stepTime = 5 * time.Second
	// slowBatch is that of keys in an HSM.
	slowBatch = 50
	// maxProblems is how many problems of a file are listed.
	maxProblems = 200
)

// FileCheck is a file that is looked at, and of which nothing is made.
type FileCheck struct {
	KeyStoreName
	File string `json:"file" upTo:"8388608" record:"-" jsonschema:"The file, as text in UTF-8: CSV with the names of the columns in the first line, or JSON lines. At most 8 MiB, 50000 rows, and 16 KiB in a line." example:"id,usage,custody\npayments-2026,encrypt decrypt,cached\n"`
}

// FileImport is a file of which what is not there yet is made.
type FileImport struct {
	KeyStoreName
	File string `json:"file" upTo:"8388608" record:"-" again:"true" jsonschema:"The file, as text in UTF-8: CSV with the names of the columns in the first line, or JSON lines. At most 8 MiB, 50000 rows, and 16 KiB in a line." example:"id,usage,custody\npayments-2026,encrypt decrypt,cached\n"`
	// Rows and SHA256 are those that the check has given. With them nothing is made of a
	// file that was cut off or changed since, and the one who approves sees how much it is.
	Rows   int    `json:"rows" jsonschema:"How many rows the file has, as the check of it has said." example:"5000" least:"0"`
	SHA256 string `json:"sha256" jsonschema:"The SHA-256 of the file, 64 hexadecimal digits, as the check of it has said." example:"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"`
	// Contents says in a request for approval what is in the file, which is stored nowhere.
	Contents []string `json:"contents,omitempty" items:"100" each:"1000" jsonschema:"What is in the file, in words, in a request for approval: how many rows of each sort, and the first 20 rows. The appliance writes it; what is given here is ignored."`
	Most     int      `json:"most,omitempty" jsonschema:"How many are made at most by this request; if it is left out, as many as can be made in some seconds, as at most are in any case. Where some are left, send it again with the same file to go on. Once another person has approved the request, each performance makes what it can in some seconds." example:"1000" least:"0"`
}

// FileReport says what a file would do.
type FileReport struct {
	Rows   int    `json:"rows" jsonschema:"How many rows the file has." example:"5000"`
	SHA256 string `json:"sha256" jsonschema:"The SHA-256 of the file, in hexadecimal." example:"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"`
	// New are those that would be made; There those that are there, just as the row has them.
	New      int           `json:"new" jsonschema:"How many rows are of things that would be made." example:"4990"`
	There    int           `json:"there" jsonschema:"How many rows are of things that are there already, just as the row says. Nothing is done for them." example:"10"`
	Problems []FileProblem `json:"problems" jsonschema:"What is wrong with lines; at most 200. Nothing is made of a file with a problem."`
	More     int           `json:"more,omitempty" jsonschema:"How many problems there are besides those listed." example:"3"`
}

// FileProblem is what is wrong with a line.
type FileProblem struct {
	Line    int    `json:"line" jsonschema:"The line, from 1. The names of the columns are line 1 of a CSV file." example:"17"`
	Column  string `json:"column,omitempty" jsonschema:"The column, or the member of the JSON object; absent where it is the whole line." example:"principal"`
	Problem string `json:"problem" jsonschema:"What is wrong, and what to do." example:"operation \"encrypt\": use Encrypt, Decrypt and GetAttributes"`
}

func (p FileProblem) String() string {
	if p.Column != "" {
		return fmt.Sprintf("line %d, column %s: %s", p.Line, p.Column, p.Problem)
	}
	return fmt.Sprintf("line %d: %s", p.Line, p.Problem)
}

// FileResult says what was made of a file.
type FileResult struct {
	Rows   int    `json:"rows" jsonschema:"How many rows the file has." example:"5000"`
	SHA256 string `json:"sha256" jsonschema:"The SHA-256 of the file, in hexadecimal." example:"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"`
	Made   int    `json:"made" jsonschema:"How many this request has made." example:"1000"`
	There  int    `json:"there" jsonschema:"How many were there before." example:"10"`
	Left   int    `json:"left" jsonschema:"How many are still to be made: send the same file again, with another idempotency key; with the same one where it was stopped." example:"3990"`
	// Stopped is why it went no further, where something failed after some were made.
	Stopped *FileStop `json:"stopped,omitempty" jsonschema:"Why it went no further, where something failed after some were made. Absent otherwise, also where the step has ended that was asked for."`
}

// FileStop is what has stopped the making of a file's things.
type FileStop struct {
	Code    fault.Code `json:"code" jsonschema:"The code of the error, as of an answer with an error." example:"E_DATABASE_AWAY"`
	Message string     `json:"message" jsonschema:"What happened, and what to do. What was made stays; sent again, with the same idempotency key or none, the request goes on." example:"the database is away"`
}

// Unfinished says that there is more to make.
func (r FileResult) Unfinished() bool { return r.Left > 0 }

func (r FileResult) stopped() bool { return r.Stopped != nil }

// Done is how many of the rows are there now.
func (r FileResult) Done() int { return r.Made + r.There }

// column is one of a CSV file. Set reads a cell; it is not called for an empty one.
type column[Row any] struct {
	name     string
	required bool
	set      func(r *Row, cell string) error
}

// fileOf is how files of things of one kind are read, and the things made.
type fileOf[Row, Thing any] struct {
	columns []column[Row]
	// same is equal for rows that must not stand in one file.
	same func(Row) string
	// look gives which rows are of things that are there, and why others cannot be made.
	look func(ctx context.Context, c *Caller, keyStore string, rows []Row) (there []bool, wrong []error, err error)
	// slow says that a row takes the HSM some time, so that batches are smaller.
	slow func(Row) bool
	// make makes things, all or none.
	make func(ctx context.Context, c *Caller, keyStore string, rows []Row) ([]Thing, error)
	// stops says that a row's thing may stop service, so that a person confirms it; nil if none can.
	stops func(Row) bool
	// single is the operation that makes one thing, and input gives what it takes for a row.
	single *Route
	// sort says of which sort a row's thing is, and words all that the row says: for the one who
	// approves.
	sort, words func(Row) string
	input       func(keyStore string, r Row) any
}

// plan is what a file would do.
type plan[Row any] struct {
	FileReport
	rows  []Row
	lines []int // of the rows
	new   []int // the rows of things to make
}

func (p *plan[Row]) wrong(line int, column string, err error) {
	if len(p.Problems) == maxProblems {
		p.More++
		return
	}
	p.Problems = append(p.Problems, FileProblem{line, column, messageOf(err)})
}

// problems is the error of a file that has some.
func (p *plan[Row]) problems() error {
	n := len(p.Problems) + p.More
	if n == 0 {
		return nil
	}
	text := p.Problems[0].String()
	if n > 1 {
		text += fmt.Sprintf("; and %d more problems", n-1)
	}
	return invalid("nothing was made, because the file has a problem: %s. Check the file, which lists them all, and mend it", text)
}

// check says what a file would do.
func (f *fileOf[Row, Thing]) check(ctx context.Context, c *Caller, keyStore, file string) (*plan[Row], error) {
	sum := sha256.Sum256([]byte(file))
	p := &plan[Row]{FileReport: FileReport{SHA256: hex.EncodeToString(sum[:]), Problems: []FileProblem{}}}
	if err := f.read(p, file); err != nil {
		return nil, err
	}
	if p.Rows = len(p.rows) + len(p.Problems) + p.More; p.Rows > MaxFileRows {
		return nil, invalid("the file has more than %d rows: split it", MaxFileRows)
	}
	if p.Rows == 0 {
		return nil, invalid("the file has no rows: give CSV with the columns %s in its first line, or JSON lines", f.names())
	}
	f.twice(p)
	there, wrong, err := f.look(ctx, c, keyStore, p.rows)
	if err != nil {
		return nil, err
	}
	for i := range p.rows {
		switch {
		case there[i]:
			p.There++
		case fault.ClassOf(wrong[i]) == fault.ClassInternal:
			return nil, wrong[i]
		case wrong[i] != nil:
			p.wrong(p.lines[i], f.columnOf(wrong[i]), wrong[i])
		default:
			p.new = append(p.new, i)
		}
	}
	p.New = len(p.new)
	slices.SortStableFunc(p.Problems, func(a, b FileProblem) int { return a.Line - b.Line })
	return p, nil
}

// read reads the rows of a file: fault.Invalid if it is too long, or no text.
func (f *fileOf[Row, Thing]) read(p *plan[Row], file string) error {
	file = strings.TrimPrefix(file, "\ufeff") // spreadsheets write it
	if err := f.bounded(file); err != nil {
		return err
	}
	if strings.HasPrefix(strings.TrimLeft(file, " \t\r\n"), "{") {
		f.readJSON(p, file)
	} else {
		f.readCSV(p, file)
	}
	return nil
}

// stop says whether a row of a file may stop service. Of a file that cannot be read nothing is made.
func (f *fileOf[Row, Thing]) stop(file string) bool {
	p := &plan[Row]{}
	return f.read(p, file) == nil && slices.ContainsFunc(p.rows, f.stops)
}

// bounded refuses a file that is too long, or no text.
func (f *fileOf[Row, Thing]) bounded(file string) error {
	switch {
	case len(file) > MaxFile:
		return invalid("the file has %d bytes, and may have %d: split it", len(file), MaxFile)
	case !utf8.ValidString(file) || strings.ContainsRune(file, 0):
		return invalid("the file is not text in UTF-8: save it as CSV in UTF-8, or as JSON lines")
	}
	line := 0
	for text := range strings.Lines(file) {
		if line++; len(text) > maxFileLine {
			return invalid("line %d of the file has %d bytes, and may have %d", line, len(text), maxFileLine)
		}
	}
	return nil
}

func (f *fileOf[Row, Thing]) names() string {
	var names []string
	for _, c := range f.columns {
		names = append(names, c.name)
	}
	return strings.Join(names, ",")
}

// twice finds rows that stand in the file more than once.
func (f *fileOf[Row, Thing]) twice(p *plan[Row]) {
	first := map[string]int{}
	rows, lines := p.rows[:0:0], p.lines[:0:0]
	for i, r := range p.rows {
		id := f.same(r)
		if at, ok := first[id]; ok {
			p.wrong(p.lines[i], "", invalid("it says the same as line %d, or is about the same thing: remove one of them", at))
			continue
		}
		first[id] = p.lines[i]
		rows, lines = append(rows, r), append(lines, p.lines[i])
	}
	p.rows, p.lines = rows, lines
}

// columnOf gives the column that an error of the domain is about, as it begins with its name.
func (f *fileOf[Row, Thing]) columnOf(err error) string {
	text := strings.ToLower(messageOf(err))
	for _, c := range f.columns {
		name := Plain(strings.TrimSuffix(c.name, "s"))
		if strings.HasPrefix(text, name) {
			return c.name
		}
	}
	return ""
}

// readJSON reads a file that has a JSON object in each line.
func (f *fileOf[Row, Thing]) readJSON(p *plan[Row], file string) {
	line := 0
	for text := range strings.Lines(file) {
		line++
		if strings.TrimSpace(text) == "" {
			continue
		}
		var r Row
		if err := decodeAs(reflect.ValueOf(&r).Elem(), []byte(text), theLine); err != nil {
			p.wrong(line, "", err)
			continue
		}
		p.rows, p.lines = append(p.rows, r), append(p.lines, line)
	}
}

// readCSV reads a file of RFC 4180 that has the names of its columns in the first line.
func (f *fileOf[Row, Thing]) readCSV(p *plan[Row], file string) {
	r := csv.NewReader(strings.NewReader(file))
	r.FieldsPerRecord, r.ReuseRecord = -1, true
	head, err := r.Read()
	if errors.Is(err, io.EOF) {
		return
	}
	var order []column[Row]
	if err == nil {
		order, err = f.order(head)
	}
	if err != nil {
		p.wrong(1, "", unquoted(err))
		return
	}
	for {
		cells, err := r.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil { // where the next row begins is not known
			line := 0
			if at, ok := errors.AsType[*csv.ParseError](err); ok {
				line = at.StartLine
			}
			p.wrong(line, "", unquoted(err))
			return
		}
		line, _ := r.FieldPos(0)
		if row, at, err := readRow(order, cells); err != nil {
			p.wrong(line, at, err)
		} else {
			p.rows, p.lines = append(p.rows, row), append(p.lines, line)
		}
	}
}

// unquoted is the error of what is no CSV.
func unquoted(err error) error {
	if at, ok := errors.AsType[*csv.ParseError](err); ok {
		return invalid("this is no CSV (%s): put a value that has a comma or a quotation mark into quotation marks, and double those in it. What follows was not read", at.Err)
	}
	return err
}

// order gives the columns as the first line of a file has them.
func (f *fileOf[Row, Thing]) order(head []string) ([]column[Row], error) {
	var order []column[Row]
	for _, name := range head {
		name = strings.ToLower(strings.TrimSpace(name))
		i := slices.IndexFunc(f.columns, func(c column[Row]) bool { return c.name == name })
		if i < 0 {
			return nil, invalid("there is no column %.80q: the first line names the columns, with commas between them: %s", name, f.names())
		}
		if slices.ContainsFunc(order, func(c column[Row]) bool { return c.name == name }) {
			return nil, invalid("the column %q is there twice: remove one", name)
		}
		order = append(order, f.columns[i])
	}
	for _, c := range f.columns {
		if c.required && !slices.ContainsFunc(order, func(o column[Row]) bool { return o.name == c.name }) {
			return nil, invalid("the column %q is missing: add it to the first line, and to each row", c.name)
		}
	}
	return order, nil
}

func readRow[Row any](order []column[Row], cells []string) (r Row, at string, err error) {
	if len(cells) != len(order) {
		return r, "", invalid("it has %d values, and there are %d columns: leave a value empty, but not its comma out", len(cells), len(order))
	}
	for i, c := range order {
		cell := strings.TrimSpace(cells[i])
		if cell == "" && c.required {
			return r, c.name, invalid("it is empty: give a value")
		}
		if cell == "" {
			continue
		}
		if err := c.set(&r, cell); err != nil {
			return r, c.name, err
		}
	}
	return r, "", nil
}

// matching says why a file is not the one that was checked.
func (p *plan[Row]) matching(in FileImport) error {
	if err := p.problems(); err != nil {
		return err
	}
	if in.Rows != p.Rows || !strings.EqualFold(in.SHA256, p.SHA256) {
		return invalid("the file has %d rows and the SHA-256 %s, and another was announced, with %d rows and %.64q: it was changed or cut off since it was checked; check it again", p.Rows, p.SHA256, in.Rows, in.SHA256)
	}
	if in.Most < 0 {
		return invalid("most %d: use a whole number from 1, or leave it out", in.Most)
	}
	return nil
}

// The limits of what the one who approves sees of a file.
const (
	shownSorts = 50
	shownRows  = 20
	shownChars = 500 // of a row
)

// filed gives what a request for approval stores: with what is in the file.
func (f *fileOf[Row, Thing]) filed(ctx context.Context, c *Caller, in, stored FileImport) (FileImport, error) {
	p, err := f.check(ctx, c, in.KeyStore, in.File)
	if err != nil {
		return stored, err
	}
	rows := map[string]int{}
	for _, r := range p.rows {
		rows[f.sort(r)]++
	}
	sorts := slices.SortedFunc(maps.Keys(rows), func(a, b string) int { return cmp.Or(rows[b]-rows[a], strings.Compare(a, b)) })
	stored.Contents = []string{fmt.Sprintf("%d rows: %d to make, %d there already", p.Rows, p.New, p.There)}
	for i, s := range sorts {
		if i == shownSorts {
			stored.Contents = append(stored.Contents, fmt.Sprintf("and %d more sorts", len(sorts)-i))
			break
		}
		stored.Contents = append(stored.Contents, fmt.Sprintf("%d rows: %.*s", rows[s], shownChars, s))
	}
	for i, r := range p.rows[:min(len(p.rows), shownRows)] {
		stored.Contents = append(stored.Contents, fmt.Sprintf("line %d: %.*s", p.lines[i], shownChars, f.words(r)))
	}
	return stored, nil
}

// ready gives the error that run would, as far as it is known before.
func (f *fileOf[Row, Thing]) ready(ctx context.Context, c *Caller, in FileImport) error {
	p, err := f.check(ctx, c, in.KeyStore, in.File)
	if err != nil {
		return err
	}
	return p.matching(in)
}

// run makes what is not there yet, in batches. What was made stays when it stops in the middle: it
// goes on with the same file, as often as needed, at any node.
func (f *fileOf[Row, Thing]) run(ctx context.Context, c *Caller, in FileImport) (FileResult, error) {
	p, err := f.check(ctx, c, in.KeyStore, in.File)
	if err == nil {
		err = p.matching(in)
	}
	if err != nil {
		return FileResult{}, err
	}
	done := FileResult{Rows: p.Rows, SHA256: p.SHA256, There: p.There}
	now := p.new
	if in.Most > 0 && in.Most < len(now) && c.approvedBy == "" { // who has approved it, has approved all
		now = now[:in.Most]
	}
	began, size := c.Now(), fileBatch
	if f.slow != nil && slices.ContainsFunc(now, func(at int) bool { return f.slow(p.rows[at]) }) {
		size = slowBatch
	}
	tried := 0
	for batch := range slices.Chunk(now, size) {
		if c.Now().Sub(began) > stepTime {
			break
		}
		rows := make([]Row, len(batch))
		for i, at := range batch {
			rows[i] = p.rows[at]
		}
		made, there, err := f.batch(ctx, c, in.KeyStore, rows, tried > 0)
		done.Made, done.There, tried = done.Made+made, done.There+there, tried+1
		if err != nil && done.Made == 0 {
			return FileResult{}, err // nothing was made, as an error says
		}
		if err != nil {
			told := fault.Answer(ctx, c.Log, "the making of a file's things stopped", err, "made", done.Made)
			done.Stopped = &FileStop{Code: told.Code, Message: told.Message}
			break
		}
	}
	done.Left = max(p.Rows-done.Done(), 0)
	return done, nil
}

// batch makes those of the rows that are not there, at once. Again says that it is not the first of
// a request: whether the caller still may, and whether it can be recorded, is asked for each.
//
// In a fleet another node may make the same meanwhile. So it is looked at again what is there, and
// nothing is made unless the fleet's log takes the change as the next one after that look.
func (f *fileOf[Row, Thing]) batch(ctx context.Context, c *Caller, keyStore string, rows []Row, again bool) (made, there int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, fault.Wrapf(fault.Timeout, err, "the one who asked does not wait any more")
	}
	if again && c.goesOn != nil {
		if err := c.goesOn(ctx); err != nil {
			return 0, 0, err
		}
	}
	for range looks {
		look, missing := c.Domain.Look(ctx), rows
		if look != nil {
			if missing, err = f.missing(ctx, c, keyStore, rows); err != nil || len(missing) == 0 {
				return 0, len(rows) - len(missing), err
			}
			ctx = appliance.Looked(ctx, look)
		}
		things, err := f.make(ctx, c, keyStore, missing)
		if look != nil && look.Refused() {
			continue
		}
		if err == nil {
			if err = f.record(ctx, c, keyStore, missing, things); err != nil {
				err = fault.Wrapf(fault.CodeOf(err), err, "the last %d were made, but not all could be recorded in the audit log: %s", len(things), messageOf(err))
			}
		}
		return len(things), len(rows) - len(missing), err
	}
	return 0, 0, fault.Errorf(fault.Changed, "other nodes of the fleet change something all the time, and what is there already cannot be told; try again")
}

// missing gives those of the rows whose things are not there now.
func (f *fileOf[Row, Thing]) missing(ctx context.Context, c *Caller, keyStore string, rows []Row) (missing []Row, err error) {
	there, wrong, err := f.look(ctx, c, keyStore, rows)
	if err != nil {
		return nil, err
	}
	for i, r := range rows {
		if !there[i] && wrong[i] != nil {
			return nil, wrong[i]
		}
		if !there[i] {
			missing = append(missing, r)
		}
	}
	return missing, nil
}

// record writes what the operation that makes one thing would, for each. They go to the log at
// once, which writes them together.
func (f *fileOf[Row, Thing]) record(ctx context.Context, c *Caller, keyStore string, rows []Row, made []Thing) error {
	failed := make([]error, len(made))
	turns := make(chan struct{}, 64)
	for i := range made {
		turns <- struct{}{}
		go func() {
			defer func() { <-turns }()
			in := f.input(keyStore, rows[i])
			p := &performance{Caller: c, route: f.single, path: f.single.fields.of(in), in: in}
			failed[i] = p.write(ctx, p.changed(nil, any(made[i]), nil))
		}()
	}
	for range cap(turns) {
		turns <- struct{}{}
	}
	return errors.Join(failed...)
}

// messageOf is what a caller may be told of an error.
func messageOf(err error) string {
	if f, ok := errors.AsType[*fault.Fault](err); ok {
		return f.Message
	}
	return "the appliance failed"
}
